//! `hardneg`: sequential recommendation trained with hard negatives. This page is the map.
//!
//! # Six floors; imports only point downward
//!
//! ```text
//! 5  face     cli/  main.rs                        one file per subcommand; the only place that prints, reads arguments or exits
//! 4  work     train/  eval/  report/               loops that tie the parts together; `train/step.rs` is the step
//! 3  parts    model/  loss/  sampling/  optim/     policies: which operations, in which order; siblings never meet
//! 2  ops      ops/                                 one operation per file: definition, reference, gradient, tests
//! 1  machine  device/                              memory, launch, time; the only place with `unsafe` and cudarc
//! 0  ground   error  rng  ids  config  data/  metrics/
//! ```
//!
//! `tests/it/floors.rs` reads every import and holds it to this table (the memory map of a prepared file, in
//! `data/interactions.rs`, is the one `unsafe` outside `device/`).
//!
//! # Where is ...
//!
//! | question | answer |
//! |---|---|
//! | what may go wrong, and the cure | [`error`]: every code, its exit status, its explanation |
//! | what can be set | [`config`]: every key and its default |
//! | where does randomness come from | [`rng`]: `philox(seed, stream, step, index)`, a function and not a state |
//! | what is an item | [`ids`]: dense from 0; nothing is padded, so no id is reserved |
//! | how does a file become batches | [`data`]: read, prepare (one memory-mapped file), split, gather |
//! | what is an operation | [`ops`]: formula, reference, gradient, cases; its twin in `kernels/` runs on machines |
//! | where does it run | [`device`]: the plain path, CUDA (`device/cuda`), or the emulator of `kernels/emulator` |
//! | does a kernel do what it should | [`ops::case`]: every case on a machine and on the plain path, as `hardneg check` does |
//! | what is a negative | [`sampling`]: propose, select, mix, weight; a method of the literature is a preset |
//! | what is a step | [`train::step`] |
//! | what memory does a run need | [`train::plan`]: the `bytes` functions beside their owners, added up and held to a measurement |
//! | how fast can a step be here | [`train::cost`]: the `cost` functions beside the operations, added up; [`train::ceilings`]: what this machine reaches |
//! | how fast will a step be here | [`train::prices`]: what a unit of each operation takes, measured at the model's width |
//! | which call of a step takes how long on a machine | [`train::kernels`], by the bytes its kernel's header promises ([`device::traffic`]) |
//! | what does a sampler cost, and what did it draw | [`train::profile`], [`sampling::diagnosis`] |
//! | what did a run buy | [`report`]: a page, TensorBoard events, a table |
//! | how good is it | [`eval`]: full ranking in tiles, baselines beside the model |
//!
//! # Decisions that last, and why
//!
//! - **Sequences are packed.** A batch is `items (R)`, `targets (R)`, `offsets (B+1)` from the log to the gradient. Histories are
//!   short and skewed; padding to the longest wastes most of the work.
//! - **The plain path defines every operation.** `Host(F64)` is the oracle of all gradients, `Host(F32)` the product where there is
//!   no GPU. A machine ([`device::Runtime`]) knows memory, launches and time, and no operation.
//! - **The training set lies where the model is.** On a machine a batch is a function of its place in the epoch: order, cuts, rows,
//!   keys and contexts are made there ([`ops::batch`], [`ops::contexts`]) from a log that was sent once. The host holds the same
//!   batch as promises ([`data::column`]), which are kept where a stage decides there; it knows how long a batch is, because launches
//!   need its size. The price is 4 bytes an event (8 with time clusters, 92 more with temporal contexts, which are encoded batch by
//!   batch beyond 2 GiB), so a log larger than a GPU's memory is refused by the plan instead of being streamed.
//! - **Work on a machine is enqueued call by call, and the host runs ahead of it**: loss and gradient norm stay there
//!   ([`device::Scalar`]) until a line, a record or a checkpoint needs them, and a gradient that is not finite halts the updates
//!   there. Samplers that decide on the host wait for their scores.
//! - **A step becomes a graph below the operations** (`train.graph`, [`device::recorded`]): the machine notes a step's calls, and
//!   replays the recording of an equal one after setting anew what differs. No kernel reads its sizes or the number of the step from
//!   memory, and no batch is padded, as a graph that never changes would need: the price is a change of some hundred nodes a step by
//!   the host, and products of round numbers of rows. Fills are kernels there ([`device::Kernel::filling`]), since a driver need not
//!   accept another length for one of its own. Whether a graph is faster than its calls is measured on the machine itself
//!   (`device/recorded/trial.rs`), which changes no bit, because both ways make the same calls; whether it does the same is asked
//!   before (`device/recorded/proof.rs`).
//! - **Gradients are summed first and applied then**, not in one kernel: whether all are finite, and the norm that clips them, is known
//!   only when the last is summed, and a step that is not finite changes nothing. The records of a sampled loss and the rows of a batch are
//!   sorted apart, so that records are let go of before the encoder goes backward; the rows are few beside them. The price is one more
//!   pass over the rows that a step touches.
//! - **A step is few launches, and a number is moved once.** On a machine all but the largest parameters lie side by side by role
//!   ([`model::ParamList`]), so one launch updates all that decay alike, and one finishes the sums over rows of all biases, gains and
//!   shifts ([`ops::column_sum`]). A bias is added by its product, a residual connection with the norm behind it is one pass across the
//!   border of two blocks too, and a gradient leaves what a bias needs of it in the pass that makes it. The price is kernels that know
//!   widths of 64, 128 and 256 alone; other widths take the single operations, which remain the definition.
//! - **Negatives stay where they are made.** On a machine the laws that need only a table ([`ops::propose`]) draw there, `top_k`
//!   and `softmax_draw` choose there, the loss reads them there: millions of ids a step that no host draws and no bus carries.
//!   They come to the host ([`ops::negatives`]) for stages that decide there, and for diagnosis; which rows of a large table they
//!   touch is found there too ([`ops::touched`]).
//! - **Sums over rows that share an id** (item tables, categories) are grouped by it and added in the order of the rows: the same
//!   bits every time, without atomics. The records of a sampled loss, millions a step, and the rows of a long batch are grouped where
//!   they are ([`ops::group`], a radix sort), which the host would take longer for than for all else it does in a step
//!   (`benches/host.rs`); few rows are on the host ([`ops::segments`]).
//! - **Parameter gradients accumulate, activation gradients overwrite.** Loops split by fixed sizes and sums run in a fixed order,
//!   so results do not depend on the number of threads.
//! - **Selections that need a ranking decide on the host**, over scores gathered where the model is: one definition for every
//!   device, at the price of copying `R M` scores back. `top_k` and `softmax_draw` have kernels and copy nothing.
//! - **What a sampler remembers is part of a checkpoint** (`optim.sampler.*`), so a continued run draws what an uninterrupted one
//!   would have drawn.
//! - **Large tables are updated by row.** A step lists the rows it touches once; only the optimizer knows that the others were
//!   left out, and its file says what that means (`optim/adamw.rs`).
//! - **Positions count back from the last event**, so a history cut to `max_len` keeps its meaning.
//! - **Item 0 is an item.** Padding exists in exported formats alone ([`ids::PAD`]); a reserved row in every table would be a trap
//!   on every floor.
//! - **Times are microseconds** in one `i64`, whatever the log's unit: ties are then decided by the log and not by rounding.

pub mod cli;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod ids;
pub mod loss;
pub mod metrics;
pub mod model;
pub mod ops;
pub mod optim;
pub mod report;
pub mod rng;
pub mod sampling;
pub mod train;
