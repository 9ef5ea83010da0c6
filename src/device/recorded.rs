//! A machine whose steps are recorded: a step like an earlier one is given to it as one graph instead of some hundred calls.
//!
//! ```text
//! call         launch, fill (a launch), product, mark: noted down, and given to the machine when somebody waits or the step ends
//! upload       written into one letter that goes to the machine ahead of the step
//! step's end   first time: call by call.   second time: recorded and replayed.   later: what differs is amended, then replayed
//! ```
//!
//! Two steps are alike if they make the same calls in the same order: the same kernels, and the same products of the same places.
//! What a launch is given (sizes, places, the number of the step, a rate) may differ and is set anew in the recording. So a
//! recording is never trusted: every step's calls are made, compared with it, and only what was found equal is left out. A step that
//! reads a result before its end, or is like no other, runs as it would without this.
//!
//! A batch has its own number of rows, and a product is of so many. So that steps are alike all the same, products are made of a few
//! rows more than there are: what they write there is never read, and where the rows are summed over they are zero. A sum of products
//! may end in other last bits than without this.
//!
//! Whoever drops a piece of memory drops it in the order of the calls, as on any machine; an address may therefore stand in calls
//! that are still noted down only, and be given again, without harm.
//!
//! Whether graphs are the faster way on a machine is found out there (`recorded/trial.rs`), unless somebody wants them in any case;
//! whether they are a right way is asked before the first step (`recorded/proof.rs`). Both ways make the same calls, products of
//! round numbers of rows among them, so the choice changes no bit.
//!
//! Price: the machine begins a recorded step when the host has ended it; up to an eighth more flops in products; memory as
//! in `arena.rs`, and a letter or two.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::device::arena::{Arena, TABLE, extent, round};
use crate::device::recorded::trial::{Trial, Way};
use crate::device::{
    Amendment, Arg, Buffer, Facts, Grid, Kernel, Mark, MatIn, MatOut, Memory, Plus, Replay, Runtime, check_product,
};
use crate::error::{Error, Result};

mod proof;
mod trial;

/// When steps go to a machine as graphs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Graphs {
    /// Where they are found to be faster than calls.
    IfFaster,
    Always,
}

/// Of seconds call by call and as graphs; what is as fast to a thousandth goes as graphs.
pub fn graphs_win([calls, graphs]: [f64; 2]) -> bool {
    graphs <= 1.001 * calls
}

/// Calls that are noted down before they go to the machine without a step's end.
const LONGEST: usize = 1 << 14;
/// Recordings that are kept, the latest used; and steps met once.
const KEPT: usize = 32;
const MET: usize = 256;
/// Bytes of the smallest letter, and the most that one has more than was asked for.
const LETTER: usize = 1 << 20;
const MOST_SPARE: usize = 16 << 20;

/// A place in the machine's memory and the 4-byte numbers in use there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Piece {
    address: u64,
    bytes: usize,
    len: usize,
}

impl Piece {
    fn of(buffer: &Buffer) -> Result<Piece> {
        let memory = buffer.memory()?;
        Ok(Piece { address: memory.address, bytes: memory.bytes, len: buffer.len() })
    }
    /// A buffer there that owns nothing.
    fn buffer(self) -> Buffer {
        Buffer::machine(Memory { address: self.address, bytes: self.bytes, owner: Box::new(()) }, self.len)
    }
}

/// An argument of a launch, without its borrow.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    In(Piece, usize),
    Out(Piece, usize),
    None,
    U32(u32),
    U64(u64),
    F32(f32),
}

impl Value {
    /// Of a buffer at its place.
    fn of(self, buffer: &mut Buffer) -> Arg<'_> {
        match self {
            Value::In(_, from) => Arg::InFrom(buffer, from),
            Value::Out(_, from) => Arg::OutFrom(buffer, from),
            Value::None => Arg::None,
            Value::U32(x) => Arg::U32(x),
            Value::U64(x) => Arg::U64(x),
            Value::F32(x) => Arg::F32(x),
        }
    }
}

/// An operand of a product: where, the first element, the stride, whether it is transposed.
type Operand = (Piece, usize, usize, bool);

/// The mark of a step, known once the machine has been given it; another one where it is given it again, because a recording failed.
#[derive(Clone, Default)]
struct Promised(Arc<Mutex<Option<Arc<Mark>>>>);

impl Promised {
    fn get(&self) -> Option<Arc<Mark>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    fn set(&self, mark: Mark) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(mark));
    }
}

struct Product {
    c: Operand,
    a: Operand,
    b: Operand,
    shape: [usize; 3],
    scale: f32,
    plus: Onto,
}

impl Product {
    /// What must be equal in recordings of it.
    fn key(&self) -> impl Hash + PartialEq + use<> {
        (self.c, self.a, self.b, self.shape, self.scale.to_bits(), self.plus)
    }
}

/// [`Plus`], without its borrow.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Onto {
    Nothing,
    Before,
    Row(Piece),
}

enum Call {
    Launch { kernel: Arc<Kernel>, grid: Grid, args: Vec<Value> },
    Product(Product),
    Mark(Promised),
}

impl Call {
    /// Adds what must be equal in steps that are alike.
    fn hash(&self, to: &mut DefaultHasher) {
        match self {
            Call::Launch { kernel, .. } => (0, Arc::as_ptr(kernel) as usize).hash(to),
            Call::Product(product) => (1, product.key()).hash(to),
            Call::Mark(_) => 2.hash(to),
        }
    }
    /// Whether a recording of `self` can be amended to be one of `other`.
    fn is_like(&self, other: &Call) -> bool {
        match (self, other) {
            (Call::Launch { kernel, .. }, Call::Launch { kernel: other, .. }) => Arc::ptr_eq(kernel, other),
            (Call::Mark(_), Call::Mark(_)) => true,
            (Call::Product(one), Call::Product(other)) => one.key() == other.key(),
            _ => false,
        }
    }
    /// Whether it does exactly what `other`, which is like it, does.
    fn is_same(&self, other: &Call) -> bool {
        match (self, other) {
            (Call::Launch { grid: g1, args: a1, .. }, Call::Launch { grid: g2, args: a2, .. }) => {
                let bits = |value: &Value| if let Value::F32(x) = value { Value::U32(x.to_bits()) } else { *value };
                (g1.blocks, g1.threads, g1.shared_bytes) == (g2.blocks, g2.threads, g2.shared_bytes)
                    && a1.iter().map(bits).eq(a2.iter().map(bits))
            }
            (Call::Product(_), Call::Product(_)) => true,
            // A mark of another step is another mark.
            _ => false,
        }
    }

    /// Hands the call over as what it was, or as a change of call `at` of a recording.
    fn give(&self, machine: &dyn Runtime, amend: Option<(&mut Replay, usize)>) -> Result<()> {
        match self {
            Call::Launch { kernel, grid, args } => {
                let buffer = |value: &Value| match value {
                    Value::In(piece, _) | Value::Out(piece, _) => piece.buffer(),
                    _ => Piece { address: 0, bytes: 0, len: 0 }.buffer(),
                };
                let mut buffers: Vec<Buffer> = args.iter().map(buffer).collect();
                let mut args: Vec<Arg> = args.iter().zip(&mut buffers).map(|(value, buffer)| value.of(buffer)).collect();
                match amend {
                    None => machine.launch(kernel, *grid, &mut args),
                    Some((replay, at)) => machine.amend(replay, at, Amendment::Launch(kernel, *grid, &mut args)).map(|_| ()),
                }
            }
            Call::Product(Product { c, a, b, shape, scale, plus }) => {
                let [mut to, left, right] = [c, a, b].map(|operand| operand.0.buffer());
                let c = MatOut { data: &mut to, first: c.1, stride: c.2 };
                let [a, b] = [(a, &left), (b, &right)].map(|(x, data)| MatIn { data, first: x.1, stride: x.2, transposed: x.3 });
                let row = if let Onto::Row(row) = plus { row.buffer() } else { Piece { address: 0, bytes: 0, len: 0 }.buffer() };
                let plus = match plus {
                    Onto::Nothing => Plus::Nothing,
                    Onto::Before => Plus::Before,
                    Onto::Row(_) => Plus::Row(&row),
                };
                machine.matmul(c, a, b, *shape, *scale, plus)
            }
            Call::Mark(promised) => {
                let mark = match amend {
                    None => machine.mark()?,
                    Some((replay, at)) => {
                        let mark = machine.amend(replay, at, Amendment::Mark)?;
                        mark.ok_or_else(|| Error::internal("a mark was amended and none came back"))?
                    }
                };
                promised.set(mark);
                Ok(())
            }
        }
    }
}

/// Bytes the host sends ahead of a step, in one piece of the machine's memory.
struct Letter {
    memory: Arc<Memory>,
    text: Vec<u8>,
    /// How much of it the machine has.
    sent: usize,
}

/// A step the machine can replay.
struct Recording {
    /// As the recording is now.
    calls: Vec<Call>,
    replay: Replay,
}

#[derive(Default)]
struct State {
    /// One of each kernel, so that launches of the same one are told by its place.
    kernels: HashMap<Kernel, Arc<Kernel>>,
    /// Noted down and not yet given to the machine.
    calls: Vec<Call>,
    /// Whether some calls of this step have been given to it already, and whether somebody has waited for them.
    begun: bool,
    waited: bool,
    /// The last one is written, if `open`; of the others somebody has a piece, or a call noted down may.
    letters: Vec<Letter>,
    open: bool,
    /// Bytes that this step wrote so far, and that the one before it did.
    wrote: usize,
    usual: usize,
    /// Those that nobody reads any more.
    spare: Vec<Letter>,
    /// The latest used last.
    recordings: Vec<Recording>,
    /// Hashes of steps that were given call by call, the oldest first.
    met: VecDeque<u64>,
    /// Whether calls go to the machine at once: where graphs are slower or fail, and now and then while that is found out.
    at_once: bool,
    trial: Option<Trial>,
    steps: Steps,
}

/// What became of the steps so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Steps {
    pub recorded: u64,
    /// Those that were recorded among them.
    pub replayed: u64,
    /// Calls that were set anew for a replay.
    pub amended: u64,
    /// Given to the machine call by call.
    pub direct: u64,
    /// Why no more are recorded, if that is so.
    pub failed: Option<String>,
    /// Seconds of a step, call by call and as graphs, where both were timed to decide which way the others go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timed: Option<[f64; 2]>,
}

/// The machine that is given the steps, and what is known of them.
pub struct Recorded {
    machine: Arc<dyn Runtime>,
    arena: Arena,
    state: Mutex<State>,
}

impl Recorded {
    /// `machine`, its steps recorded, if a small one gives the same numbers replayed as call by call. An error where the machine does not
    /// get over that.
    pub fn new(machine: Arc<dyn Runtime>, graphs: Graphs) -> Result<Recorded> {
        let failed = proof::fails(&machine)?;
        let trial = (graphs == Graphs::IfFaster && failed.is_none()).then(Trial::default);
        let at_once = failed.is_some() || trial.is_some();
        let state = State { at_once, trial, steps: Steps { failed, ..Steps::default() }, ..State::default() };
        Ok(Recorded { state: Mutex::new(state), ..Recorded::unproven(machine) })
    }
    fn unproven(machine: Arc<dyn Runtime>) -> Recorded {
        Recorded { machine, arena: Arena::default(), state: Mutex::default() }
    }
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what is written and not yet sent.
    fn post(&self, state: &mut State) -> Result<()> {
        let Some(letter) = state.letters.last_mut().filter(|letter| letter.sent < letter.text.len()) else { return Ok(()) };
        let (sent, bytes) = (letter.sent, letter.text.len() - letter.sent);
        let mut to = Memory { address: letter.memory.address + sent as u64, bytes, owner: Box::new(()) };
        self.machine.write(&mut to, &letter.text[sent..])?;
        letter.sent = letter.text.len();
        Ok(())
    }
    /// Gives the machine everything noted down, call by call; whoever writes more opens another letter.
    fn flush(&self, state: &mut State) -> Result<()> {
        self.post(state)?;
        state.begun |= !state.calls.is_empty();
        std::mem::take(&mut state.calls).iter().try_for_each(|call| call.give(&*self.machine, None))?;
        state.open = false;
        let (free, held): (Vec<Letter>, _) =
            std::mem::take(&mut state.letters).into_iter().partition(|letter| Arc::strong_count(&letter.memory) == 1);
        state.letters = held;
        state.letters.iter_mut().for_each(|letter| letter.text = Vec::new());
        state.spare.extend(free);
        // Of letters that are too small for what a step writes there will be no use, and far larger ones are not kept for it.
        let written = state.wrote.max(state.usual).min(MOST_SPARE);
        state.spare.retain(|letter| (written..=(4 * written).max(LETTER)).contains(&letter.memory.bytes));
        Ok(())
    }
    /// Room for one more: what was given back lies in pieces, or in chunks of other sizes, and is let go of; it is free once the machine
    /// is past its last use.
    fn make_room(&self, state: &mut State) -> Result<()> {
        self.flush(state)?;
        state.spare.clear();
        self.arena.release();
        self.machine.sync()
    }
    /// Before a call that is not noted down: what it may read is sent.
    fn goes_at_once(&self, state: &mut State) -> Result<()> {
        state.begun = true;
        self.post(state)
    }
    fn note(&self, state: &mut State, call: Call) -> Result<()> {
        if state.at_once {
            self.goes_at_once(state)?;
            return call.give(&*self.machine, None);
        }
        state.calls.push(call);
        if state.calls.len() >= LONGEST { self.flush(state) } else { Ok(()) }
    }
    fn note_launch(&self, state: &mut State, kernel: &Kernel, grid: Grid, args: Vec<Value>) -> Result<()> {
        let kernel = match state.kernels.get(kernel) {
            Some(known) => known.clone(),
            None => state.kernels.entry(kernel.clone()).or_insert(Arc::new(kernel.clone())).clone(),
        };
        self.note(state, Call::Launch { kernel, grid, args })
    }
    /// A kernel's fill: the driver's own would be changed in place and size by some recordings and not by others.
    fn note_fill(&self, state: &mut State, address: u64, bytes: usize, byte: u8) -> Result<()> {
        if !bytes.is_multiple_of(4) {
            return Err(Error::internal(format!("{bytes} bytes are no whole numbers to fill")));
        }
        let (len, word) = (bytes / 4, u32::from_ne_bytes([byte; 4]));
        let (kernel, grid) = Kernel::filling(len);
        let to = Value::Out(Piece { address, bytes, len }, 0);
        self.note_launch(state, &kernel, grid, vec![to, Value::U64(len as u64), Value::U32(word)])
    }

    /// From now on every step goes to the machine call by call.
    fn give_up(state: &mut State) {
        (state.at_once, state.trial) = (true, None);
        state.recordings.clear();
        state.met.clear();
    }
    /// Takes the faster way from now on, once enough steps have been timed. Nobody waits for one: the machine is past all of them.
    fn decide(&self, state: &mut State) -> Result<()> {
        let Some(trial) = state.trial.as_ref().filter(|trial| trial.is_over()) else { return Ok(()) };
        state.steps.timed = trial.seconds(|from, to| self.machine.elapsed(from, to))?;
        match state.steps.timed {
            Some(seconds) if graphs_win(seconds) => (state.at_once, state.trial) = (false, None),
            _ => Self::give_up(state),
        }
        Ok(())
    }

    /// Runs a whole step's calls by a recording; what stays in the state goes call by call.
    fn replayed(&self, state: &mut State) -> Result<bool> {
        let alike = |recording: &Recording| {
            recording.calls.len() == state.calls.len() && recording.calls.iter().zip(&state.calls).all(|(a, b)| a.is_like(b))
        };
        if let Some(at) = state.recordings.iter().rposition(alike) {
            let mut recording = state.recordings.remove(at);
            let mut amended = 0;
            for (i, call) in state.calls.iter().enumerate().filter(|(i, call)| !recording.calls[*i].is_same(call)) {
                call.give(&*self.machine, Some((&mut recording.replay, i)))?;
                amended += 1;
            }
            self.post(state)?;
            self.machine.replay(&recording.replay)?;
            recording.calls = std::mem::take(&mut state.calls);
            state.recordings.push(recording);
            state.steps.amended += amended;
            return Ok(true);
        }
        let mut hasher = DefaultHasher::new();
        state.calls.iter().for_each(|call| call.hash(&mut hasher));
        let known = hasher.finish();
        if !state.met.contains(&known) {
            state.met.push_back(known);
            if state.met.len() > MET {
                state.met.pop_front();
            }
            return Ok(false);
        }
        let calls = &state.calls;
        let replay = self.machine.capture(&mut || calls.iter().try_for_each(|call| call.give(&*self.machine, None)))?;
        self.post(state)?;
        self.machine.replay(&replay)?;
        state.recordings.push(Recording { calls: std::mem::take(&mut state.calls), replay });
        if state.recordings.len() > KEPT {
            state.recordings.remove(0);
        }
        state.steps.recorded += 1;
        Ok(true)
    }
}

impl Runtime for Recorded {
    fn facts(&self) -> &Facts {
        self.machine.facts()
    }
    fn alloc(&self, bytes: usize) -> Result<Memory> {
        self.arena.alloc(&*self.machine, bytes).or_else(|_| {
            self.make_room(&mut self.locked())?;
            self.arena.alloc(&*self.machine, bytes)
        })
    }
    fn upload(&self, bytes: &[u8]) -> Result<Memory> {
        let mut state = self.locked();
        let needed = extent(bytes.len());
        let fits = |letter: &Letter| letter.text.len() + needed <= letter.memory.bytes;
        if !state.open || !state.letters.last().is_some_and(fits) {
            self.post(&mut state)?;
            // As many bytes as the step before wrote, or this one so far, have room in the letter, within bounds.
            let room = needed + state.wrote.max(state.usual).min(MOST_SPARE);
            let letter = match state.spare.iter().position(|letter| letter.memory.bytes >= room) {
                Some(at) => state.spare.remove(at),
                None => {
                    let bytes = (room + room.min(MOST_SPARE)).max(LETTER);
                    let memory = self.machine.alloc(bytes).or_else(|_| {
                        self.make_room(&mut state)?;
                        self.machine.alloc(bytes)
                    })?;
                    Letter { memory: Arc::new(memory), text: Vec::new(), sent: 0 }
                }
            };
            let mut text = letter.text;
            text.clear();
            state.letters.push(Letter { text, sent: 0, ..letter });
            state.open = true;
        }
        let Some(letter) = state.letters.last_mut() else { return Err(Error::internal("no letter was opened")) };
        let from = letter.text.len();
        letter.text.extend_from_slice(bytes);
        letter.text.resize(from + needed, 0);
        let memory =
            Memory { address: letter.memory.address + from as u64, bytes: bytes.len(), owner: Box::new(letter.memory.clone()) };
        state.wrote += needed;
        Ok(memory)
    }
    fn write(&self, to: &mut Memory, from: &[u8]) -> Result<()> {
        self.flush(&mut self.locked())?;
        self.machine.write(to, from)
    }
    fn read(&self, from: &Memory, to: &mut [u8]) -> Result<()> {
        let mut state = self.locked();
        self.flush(&mut state)?;
        state.waited |= state.begun;
        self.machine.read(from, to)?;
        self.decide(&mut state)
    }
    fn fill(&self, memory: &mut Memory, byte: u8) -> Result<()> {
        if memory.bytes == 0 {
            return Ok(());
        }
        self.note_fill(&mut self.locked(), memory.address, memory.bytes, byte)
    }
    fn launch(&self, kernel: &Kernel, grid: Grid, args: &mut [Arg<'_>]) -> Result<()> {
        let mut state = self.locked();
        if state.at_once {
            self.goes_at_once(&mut state)?;
            return self.machine.launch(kernel, grid, args);
        }
        let value = |arg: &Arg| {
            Ok(match arg {
                Arg::In(buffer) => Value::In(Piece::of(buffer)?, 0),
                Arg::Out(buffer) => Value::Out(Piece::of(buffer)?, 0),
                Arg::InFrom(buffer, from) => Value::In(Piece::of(buffer)?, *from),
                Arg::OutFrom(buffer, from) => Value::Out(Piece::of(buffer)?, *from),
                Arg::None => Value::None,
                Arg::U32(x) => Value::U32(*x),
                Arg::U64(x) => Value::U64(*x),
                Arg::F32(x) => Value::F32(*x),
            })
        };
        let args = args.iter().map(value).collect::<Result<Vec<Value>>>()?;
        self.note_launch(&mut state, kernel, grid, args)
    }
    fn matmul(&self, c: MatOut, a: MatIn, b: MatIn, shape: [usize; 3], scale: f32, plus: Plus) -> Result<()> {
        check_product(&c, &a, &b, shape, plus)?;
        let [m, n, k] = shape;
        if m == 0 || n == 0 || k == 0 && plus.accumulates() {
            return Ok(());
        }
        if k == 0 {
            return Err(Error::internal("a product over nothing"));
        }
        // Whether a matrix stored row by row, `given` rows of it, has room for `rows` and holds nothing behind its own: by what is in
        // use of its memory, since how much more there is depends on the steps before.
        let goes_on = |data: &Buffer, first: usize, stride: usize, columns: usize, given: usize, rows: usize| {
            // Behind one of several side by side lies the next one, and no room.
            let alone = data.memory().is_ok_and(|memory| !memory.is_shared());
            let room = if alone { extent(4 * data.len()).min(TABLE) } else { 0 };
            first + columns <= stride && data.len() <= given * stride && 4 * rows * stride <= room
        };
        let (mut rows, mut depth) = (round(m), round(k));
        let of_a = !a.transposed && goes_on(a.data, a.first, a.stride, k, m, rows);
        if !of_a || !goes_on(c.data, c.first, c.stride, n, m, rows) {
            rows = m;
        }
        let of_a = a.transposed && goes_on(a.data, a.first, a.stride, m, k, depth);
        if !of_a || b.transposed || !goes_on(b.data, b.first, b.stride, n, k, depth) {
            depth = k;
        }
        let place = |data: &Buffer, first: usize, stride: usize, [rows, columns]: [usize; 2]| {
            let len = first + (rows - 1) * stride + columns;
            Ok(Piece { address: data.memory()?.address, bytes: 4 * len, len })
        };
        let operand = |x: &MatIn, shape: [usize; 2]| {
            let shape = if x.transposed { [shape[1], shape[0]] } else { shape };
            Ok((place(x.data, x.first, x.stride, shape)?, x.first, x.stride, x.transposed))
        };
        let call = Call::Product(Product {
            c: (place(c.data, c.first, c.stride, [rows, n])?, c.first, c.stride, false),
            a: operand(&a, [rows, depth])?,
            b: operand(&b, [depth, n])?,
            shape: [rows, n, depth],
            scale,
            plus: match plus {
                Plus::Nothing => Onto::Nothing,
                Plus::Before => Onto::Before,
                Plus::Row(row) => Onto::Row(Piece::of(row)?),
            },
        });
        let mut state = self.locked();
        if depth > k {
            for x in [&a, &b] {
                let (address, bytes) = (x.data.memory()?.address + 4 * (k * x.stride) as u64, 4 * (depth - k) * x.stride);
                self.note_fill(&mut state, address, bytes, 0)?;
            }
        }
        self.note(&mut state, call)
    }
    fn capture(&self, _: &mut dyn FnMut() -> Result<()>) -> Result<Replay> {
        Err(Error::internal("a machine that records its steps records nothing else"))
    }
    fn replay(&self, _: &Replay) -> Result<()> {
        Err(Error::internal("a machine that records its steps has no other recordings"))
    }
    fn amend(&self, _: &mut Replay, _: usize, _: Amendment<'_, '_>) -> Result<Option<Mark>> {
        Err(Error::internal("a machine that records its steps has no other recordings"))
    }
    fn mark(&self) -> Result<Mark> {
        let promised = Promised::default();
        self.note(&mut self.locked(), Call::Mark(promised.clone()))?;
        Ok(Mark(Box::new(promised)))
    }
    fn elapsed(&self, from: &Mark, to: &Mark) -> Result<f64> {
        let promised = |mark: &Mark| mark.0.downcast_ref::<Promised>().cloned();
        let (Some(from), Some(to)) = (promised(from), promised(to)) else {
            return Err(Error::internal("a mark of another machine"));
        };
        if from.get().is_none() || to.get().is_none() {
            self.flush(&mut self.locked())?;
        }
        match (from.get(), to.get()) {
            (Some(from), Some(to)) => self.machine.elapsed(&from, &to),
            _ => Err(Error::internal("a mark that the machine was never given")),
        }
    }
    fn sync(&self) -> Result<()> {
        let mut state = self.locked();
        self.flush(&mut state)?;
        state.waited |= state.begun;
        self.machine.sync()
    }
    fn steps(&self) -> Option<Steps> {
        Some(self.locked().steps.clone())
    }
    fn step(&self) -> Result<()> {
        let mut state = self.locked();
        let whole = !state.begun && !state.calls.is_empty();
        // What a trial counts: steps that nobody waited in, if they went the way they were to go.
        let counts = if state.at_once { !state.waited } else { whole };
        if whole && !state.at_once {
            match self.replayed(&mut state) {
                Ok(true) => state.steps.replayed += 1,
                Ok(false) => {}
                // The calls are still there: a machine that can do them will, and one that cannot says why.
                Err(error) => {
                    Self::give_up(&mut state);
                    state.steps.failed = Some(error.what().to_string());
                }
            }
        }
        state.steps.direct += u64::from(!state.calls.is_empty() || state.begun);
        self.flush(&mut state)?;
        (state.begun, state.waited) = (false, false);
        state.usual = std::mem::take(&mut state.wrote);
        if let Some(trial) = &mut state.trial {
            trial.ended(counts, self.machine.mark()?);
            state.at_once = trial.next() == Way::Calls;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
