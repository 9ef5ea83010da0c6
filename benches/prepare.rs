//! Reads and prepares a large log: rows a second and peak memory against the size of the numeric columns; and how fast
//! batches are gathered from it. `cargo bench --bench prepare -- [ROWS]`, 20 million by default (0.5 GB of temporary disk).

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use hardneg::config::{Config, Data};
use hardneg::data::context::ContextEncoder;
use hardneg::data::prepare::prepare;
use hardneg::data::raw::Sides;
use hardneg::data::read::read;
use hardneg::data::split::Split;
use hardneg::data::training::TrainingSet;
use hardneg::rng::{Draws, Stream, below, open01};

fn main() {
    let rows: u64 = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(20_000_000);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = folder.path().join("log.tsv");
    generate(&log, rows);
    let bytes = std::fs::metadata(&log).expect("the log").len();
    println!("{rows} rows, {:.0} MB of text, in no order", bytes as f64 / 1e6);

    let config = Data { path: log.display().to_string(), min_user: 5, min_item: 5, ..Data::default() };
    let start = Instant::now();
    let raw = read(&config, None, &mut |_| {}).expect("a readable log");
    let reading = start.elapsed().as_secs_f64();
    let numeric = raw.users.len() * 4 + raw.items.len() * 4 + raw.times.as_ref().map_or(0, |t| t.len() * 8);
    let after_reading = peak();
    let start = Instant::now();
    let data = prepare(raw, &config, Sides::default(), &folder.path().join("log.hn")).expect("a log that can be prepared");
    let preparing = start.elapsed().as_secs_f64();
    println!("read     {reading:6.2} s  {:9.0} rows/s  peak {:.0} MB", rows as f64 / reading, after_reading / 1e6);
    println!("prepare  {preparing:6.2} s  {:9.0} rows/s  peak {:.0} MB", rows as f64 / preparing, peak() / 1e6);
    println!("numeric columns {:.0} MB, peak is {:.2} times that", numeric as f64 / 1e6, peak() / numeric as f64);
    println!("{} users, {} items, {} events left", data.users(), data.items(), data.events());

    let mut config = Config { data: config, ..Config::default() };
    config.model.kind = "cans".into();
    let data = Arc::new(data);
    let split = Arc::new(Split::new(&data, &config.data, 1).expect("a split"));
    let encoder = ContextEncoder::fit(&data, &split, &config).expect("a context encoder");
    for (name, encoder) in [("without context", None), ("with 23 features", encoder)] {
        let set = TrainingSet::new(data.clone(), split.clone(), &config, encoder, None).expect("a training set");
        let mut times: Vec<f64> = (0..101u64)
            .map(|batch| {
                let indexes: Vec<u32> = (0..128)
                    .map(|i| below(Draws::new(1, Stream::Test, 0, batch).words64(i)[0], set.len() as u64) as u32)
                    .collect();
                let start = Instant::now();
                let batch = set.gather(&indexes, 0, 1);
                start.elapsed().as_secs_f64() / batch.rows() as f64
            })
            .collect();
        times.sort_unstable_by(f64::total_cmp);
        println!("gather {name}: {:.1} ns a row (median of 101 batches of 128 users)", times[50] * 1e9);
    }
}

/// `user item seconds`, all three drawn independently of the row before.
fn generate(path: &Path, rows: u64) {
    let (users, items) = ((rows / 100).max(1), (rows / 200).max(1));
    let mut to = BufWriter::with_capacity(1 << 20, File::create(path).expect("a log to write"));
    let draws = Draws::new(1, Stream::Test, 1, 0);
    writeln!(to, "user\titem\ttimestamp").expect("room on the disk");
    for row in 0..rows {
        let [a, b] = draws.words64(row);
        // A long tail: the item's rank is n^u with u uniform.
        let item = (items as f64).powf(open01(b)) as u64;
        writeln!(to, "u{}\ti{item}\t{}", below(a, users), 1_500_000_000 + (a & 0x3FF_FFFF)).expect("room on the disk");
    }
    to.flush().expect("room on the disk");
}

/// Largest resident memory of this process so far, in bytes; 0 where the system does not say.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(0.0) * 1024.0
}
