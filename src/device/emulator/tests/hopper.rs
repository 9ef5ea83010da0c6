//! A ring of tiles as a kernel for Hopper has it, and the faults one makes in such a ring: what the emulator sees of each.

use super::*;
use crate::rng::{Draws, Stream, below};

const RING: &str = include_str!("ring.cu");
const TILES: usize = 5;

/// Every fault of ring.cu.
const BUGS: &[&str] = &[
    "no wait for an empty place",
    "the producer waits for the other parity",
    "half of the bytes are expected",
    "a place is given back before its product is waited for",
    "no barrier after mbarrier_init",
    "the next columns are taken from the wrong address",
    "the consumer waits for the same parity each time",
    "one warp gives a place back for all four",
    "the consumer stays in one place",
    "no commit",
    "no wait for the product",
    "no fence after mbarrier_init",
    "no wait for the first operand",
    "twice the bytes are expected",
    "the consumer waits for the other parity",
    "accumulators are not begun anew",
    "the wait lets one group be under way",
    "no place is given back",
];

fn ring(checked: bool, schedule: Schedule) -> Arc<Emulator> {
    written(RING, checked, schedule)
}

fn written(text: &str, checked: bool, schedule: Schedule) -> Arc<Emulator> {
    let cache = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp/kernels");
    let extra_sources = vec![("ring".to_string(), text.to_string())];
    Emulator::open(&Options { checked, schedule, extra_sources, memory_bytes: 1 << 30, ..Options::new(cache) }).unwrap()
}

/// Small whole numbers, whose products and sums are exact.
fn numbers(lane: u8, rows: usize) -> Vec<f32> {
    let draws = Draws::new(3, Stream::Test, lane, 0);
    (0..rows as u64 * 64).map(|i| below(draws.words64(i)[0], 17) as f32 - 8.0).collect()
}

/// Rows of 64 numbers as wgmma_tile describes them.
fn laid_out(rows: &[f32]) -> Vec<u32> {
    let mut words = vec![0; rows.len() / 2];
    for (i, pair) in rows.chunks(2).enumerate() {
        let (row, piece) = (i / 32, i % 32 / 4);
        let bits = |x: f32| x.to_bits() >> 16;
        words[row * 32 + (piece ^ (row % 8)) * 4 + i % 4] = bits(pair[0]) | bits(pair[1]) << 16;
    }
    words
}

/// The products, or what the emulator says.
fn run(machine: &Emulator, bug: usize) -> std::result::Result<Vec<f32>, String> {
    let (a, b) = (numbers(1, 64), numbers(2, TILES * 128));
    let (a, b) = (upload(machine, &laid_out(&a)).unwrap(), upload(machine, &laid_out(&b)).unwrap());
    let mut y = upload(machine, &vec![0f32; TILES * 64 * 128]).unwrap();
    let kernel = Kernel::new("ring", "ring", &[("BUG", bug as i64)]);
    let grid = Grid { shared_bytes: 64 * 128 + 2 * 128 * 128, ..Grid::row(1, 160) };
    let args = &mut [Arg::Out(&mut y), Arg::In(&a), Arg::In(&b), Arg::U32(TILES as u32)];
    machine.launch(&kernel, grid, args).map_err(|e| e.what().to_string())?;
    Ok(download(machine, &y, TILES * 64 * 128).unwrap())
}

fn products() -> Vec<f32> {
    let (a, b) = (numbers(1, 64), numbers(2, TILES * 128));
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
    let tile = |b: &[f32]| a.chunks(64).flat_map(|a| b.chunks(64).map(|b| dot(a, b)).collect::<Vec<_>>()).collect::<Vec<_>>();
    b.chunks(128 * 64).flat_map(tile).collect()
}

#[test]
fn dynamic_memory_lies_where_it_was_asked_to_lie_and_no_better() {
    let text = RING.replace("#define SHARED_ALIGNMENT 1024\n", "");
    assert_ne!(text, RING);
    assert!(run(&written(&text, false, Schedule::Forward), 0) != Ok(products()));
}

#[test]
fn a_ring_of_tiles_gives_the_products_in_every_order() {
    let orders = [Schedule::Forward, Schedule::Reverse].into_iter().chain((0..8).map(Schedule::Random));
    for (checked, order) in [false, true].into_iter().flat_map(|checked| orders.clone().map(move |order| (checked, order))) {
        assert_eq!(run(&ring(checked, order), 0).unwrap(), products(), "{order:?}, checked: {checked}");
    }
}

#[test]
fn every_fault_of_a_ring_is_seen() {
    let expected = products();
    let (mut unseen, mut unchecked) = (vec![], 0);
    for (bug, name) in BUGS.iter().enumerate() {
        let seen = |checked, order| match run(&ring(checked, order), bug + 1) {
            Err(text) => Some(text),
            Ok(y) => (y != expected).then(|| "other products".into()),
        };
        unchecked +=
            usize::from([Schedule::Forward, Schedule::Reverse, Schedule::Random(1)].iter().any(|&o| seen(false, o).is_some()));
        match seen(true, Schedule::Forward) {
            Some(text) => println!("{name}: {text}"),
            None => unseen.push(name),
        }
    }
    println!("{unchecked} of {} are seen without looking at every access", BUGS.len());
    assert!(unseen.is_empty(), "{unseen:?}");
}
