//! What a negative costs: nanoseconds per drawn negative of every proposal, and per row of every selection, on one thread and on
//! all. `cargo bench --bench samplers -- [ITEMS]`, one million by default; 128 sequences of 100 rows, users have seen 100 items.

use std::time::Instant;

use hardneg::config;
use hardneg::data::batch::Batch;
use hardneg::data::clusters::{ClusterCounts, ClusterEvents};
use hardneg::device::Device;
use hardneg::ops::score::{ScoreKind, Scoring};
use hardneg::rng::{Draws, Stream, below, normal2};
use hardneg::sampling::{Clusters, Knowledge, Moment, Sampler};

const SEQUENCES: usize = 128;
const ROWS: usize = 100;
const SEEN: usize = 100;
const DIM: usize = 64;

fn main() {
    let items: usize = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(1_000_000);
    let draws = Draws::new(1, Stream::Test, 0, 0);
    let counts: Vec<u32> = (0..items).map(|i| 1 + (10 * items / (i + 10)) as u32 % 100_000).collect();
    let sparse: Vec<u32> = (0..items as u32).step_by(3).collect();
    let cluster_counts = ClusterCounts {
        offsets: vec![0, sparse.len() as u64],
        counts: sparse.iter().map(|&i| 1 + 100_000 / (i + 10)).collect(),
        items: sparse,
    };
    let cluster_events = ClusterEvents { offsets: vec![0, 1], events: vec![0] };
    let knowledge = Knowledge {
        train_counts: &counts,
        event_items: &[0],
        offsets: &[0, 1],
        train_end: &[1],
        clusters: Some(Clusters { counts: &cluster_counts, events: &cluster_events }),
        ..Knowledge::default()
    };
    let rows = SEQUENCES * ROWS;
    let mut seen = Vec::new();
    for b in 0..SEQUENCES {
        let mut own: Vec<u32> = (0..SEEN).map(|j| below(draws.words64((b * SEEN + j) as u64)[0], items as u64) as u32).collect();
        own.sort_unstable();
        own.dedup();
        own.resize(SEEN, items as u32 - 1);
        own.dedup();
        seen.push(own);
    }
    let batch = Batch {
        users: (0..SEQUENCES as u32).collect(),
        offsets: (0..=SEQUENCES).map(|b| (b * ROWS) as u32).collect(),
        items: vec![0; rows].into(),
        targets: (0..rows).map(|r| seen[r / ROWS][r % ROWS % seen[r / ROWS].len()]).collect(),
        row_keys: (0..rows as u64).collect(),
        target_clusters: vec![0; rows].into(),
        ..Batch::default()
    }
    .with_seen(&seen);
    let noise = |lane: u8, n: usize| -> Vec<f64> {
        let draws = Draws::new(1, Stream::Test, lane, 0);
        (0..n as u64).map(|i| normal2(draws.words64(i))[0] * 0.1).collect()
    };
    let (query, table) =
        (Device::HOST.reals(&noise(1, rows * DIM)).unwrap(), Device::HOST.reals(&noise(2, items * DIM)).unwrap());
    let scoring = Scoring { kind: ScoreKind::Dot, dim: DIM, items, query: &query, context: None, table: &table };

    println!("{items} items, {rows} rows, {} threads", rayon::current_num_threads());
    let cases = [
        ("uniform", "preset = 'uniform'\nnegatives = 256"),
        ("uniform, target excluded", "preset = 'gsasrec'"),
        ("uniform, distinct", "preset = 'uniform'\nnegatives = 256\npropose = [{ kind = 'uniform', distinct = true }]"),
        ("uniform with log q", "preset = 'uniform'\nnegatives = 256\nweight = { kind = 'log_q' }"),
        ("uniform per sequence", "preset = 'dross'"),
        ("popularity", "preset = 'popularity'\nweight = { kind = 'one' }"),
        ("popularity with log q", "preset = 'popularity'"),
        ("in batch with log q", "preset = 'in-batch'"),
        ("mixed with log q", "preset = 'mns'"),
        ("cans items, distinct", "preset = 'cans-items'"),
        ("cans items", "preset = 'cans-items'\npropose = [{ kind = 'cluster' }]"),
        ("dns of 64", "preset = 'dns'"),
        ("genni of 4096 shared", "preset = 'genni'"),
    ];
    for (name, text) in cases {
        let config: config::Sampler = toml::from_str(text).expect("a configuration");
        let start = Instant::now();
        let sampler = Sampler::new(&config, &knowledge, 1).expect("a sampler");
        let building = start.elapsed().as_secs_f64();
        let measure = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            let mut times: Vec<f64> = (0..9u64)
                .map(|epoch_index| {
                    let moment = Moment { epoch: 20.0, epoch_index, batch_index: 0 };
                    let start = Instant::now();
                    let drawn = pool.install(|| sampler.draw(&Device::HOST, &batch, Some(&scoring), moment)).expect("negatives");
                    start.elapsed().as_secs_f64() / drawn.ids.len() as f64
                })
                .collect();
            times.sort_unstable_by(f64::total_cmp);
            times[4] * 1e9
        };
        let (one, all) = (measure(1), measure(rayon::current_num_threads()));
        println!("{name:26} {one:10.1} ns/negative on one thread, {all:10.1} on all; built in {:.0} ms", building * 1e3);
    }
}
