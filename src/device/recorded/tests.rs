//! Steps of a few calls on the emulator, recorded and not: the same numbers, and what became of each step.

use super::*;
use crate::device::emulator::{Emulator, Options};
use crate::device::recorded::proof::{Lasting, step};
use crate::device::watched::Watched;
use crate::device::{Device, Plus, download, place, upload};

fn emulator() -> Arc<Emulator> {
    let cache = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp/kernels");
    Emulator::open(&Options { memory_bytes: 1 << 30, ..Options::new(cache) }).unwrap()
}

/// A machine that records, the same not recording, and both as devices.
fn both() -> ([Device; 2], Arc<dyn Runtime>) {
    let recorded: Arc<dyn Runtime> = Arc::new(Recorded::new(emulator(), Graphs::Always).unwrap());
    ([Device::Machine(recorded.clone()), Device::Machine(emulator())], recorded)
}

fn machine(device: &Device) -> &dyn Runtime {
    match device {
        Device::Machine(runtime) => &**runtime,
        Device::Host(_) => unreachable!("a machine was opened"),
    }
}

/// Runs `turns` (what the host brings beside) on both, and compares after every one or after the last.
fn run(turns: &[usize], compare_all: bool) -> Steps {
    let (devices, recorded) = both();
    let mut kept = devices.each_ref().map(|device| Lasting::new(machine(device)).unwrap());
    recorded.step().unwrap();
    let begin = recorded.steps().unwrap();
    let sum = |i: usize, kept: &[Lasting; 2]| download::<f32>(machine(&devices[i]), &kept[i].sum, 16).unwrap();
    for (turn, &extra) in turns.iter().enumerate() {
        let marks = [0, 1].map(|i| step(machine(&devices[i]), &mut kept[i], turn + 1, extra).unwrap());
        recorded.step().unwrap();
        if compare_all || turn + 1 == turns.len() {
            assert_eq!(sum(0, &kept), sum(1, &kept), "turn {turn} of {turns:?}");
        }
        let seconds = recorded.elapsed(&marks[0][0], &marks[0][1]).unwrap();
        assert!((0.0..10.0).contains(&seconds));
    }
    let Steps { recorded, replayed, amended, direct, failed, .. } = recorded.steps().unwrap();
    assert_eq!(failed, None);
    assert_eq!(replayed + direct, turns.len() as u64 + begin.direct);
    Steps { recorded, replayed, amended, direct: direct - begin.direct, failed, timed: None }
}

#[test]
fn steps_alike_are_replayed_and_give_the_same_bits() {
    // The first two tell that steps are alike; the second is recorded.
    let steps = run(&[8; 6], true);
    assert_eq!((steps.recorded, steps.replayed, steps.direct), (1, 5, 1), "{steps:?}");
    // Each replay after the first has two new marks and two rates of its own.
    assert_eq!(steps.amended, 4 * 4, "{steps:?}");
    assert_eq!(run(&[8; 6], false), steps);
}

#[test]
fn lists_of_other_lengths_are_amended_and_not_recorded_anew() {
    let steps = run(&[8, 8, 20, 40, 3, 8], true);
    assert_eq!((steps.recorded, steps.replayed), (1, 5), "{steps:?}");
    // So many that the product behind them comes to lie elsewhere.
    let steps = run(&[8, 8, 2000, 8, 2000, 2000], true);
    assert_eq!((steps.recorded, steps.replayed), (2, 4), "{steps:?}");
}

#[test]
fn products_of_a_few_rows_more_or_less_are_alike() {
    let (devices, recorded) = both();
    let width = 6;
    let numbers = |n: usize, by: f64| (0..n).map(|i| (i as f64 * by).fract() - 0.5).collect::<Vec<f64>>();
    let mut kept = devices.each_ref().map(|device| {
        let w = device.reals(&numbers(width * width, 0.618)).unwrap();
        (w, device.zeros(width * width).unwrap(), Buffer::empty(device), Buffer::empty(device))
    });
    // The longest first: its places serve all.
    let steps = [108, 105, 108, 110, 106, 109, 103, 107];
    for (turn, rows) in steps.into_iter().enumerate() {
        let outputs = [0, 1].map(|i| {
            let (device, (w, dw, x, y)) = (&devices[i], &mut kept[i]);
            let runtime = machine(device);
            for buffer in [&mut *x, &mut *y] {
                buffer.resize(device, 112 * width).unwrap();
                buffer.resize(device, rows * width).unwrap();
            }
            let from = upload(runtime, &numbers(rows * width, 0.37).iter().map(|&v| v as f32).collect::<Vec<f32>>()).unwrap();
            let n = from.len();
            x.clear(device).unwrap();
            let args = &mut [Arg::Out(&mut *x), Arg::In(&from), Arg::U64(n as u64), Arg::F32(1.0)];
            runtime.launch(&Kernel::new("rows", "rows_add", &[]), Grid::row(n.div_ceil(1024), 256), args).unwrap();
            let of = |data| MatIn::new(data, width);
            runtime.matmul(MatOut::new(&mut *y, width), of(x), of(w), [rows, width, width], 1.0, Plus::Nothing).unwrap();
            runtime.matmul(MatOut::new(&mut *dw, width), of(x).t(), of(y), [width, width, rows], 1.0, Plus::Before).unwrap();
            runtime.step().unwrap();
            [(&*y, rows * width), (&*dw, width * width)].map(|(from, n)| download::<f32>(runtime, from, n).unwrap())
        });
        assert!(outputs[0][0] == outputs[1][0], "turn {turn}");
        for (a, b) in outputs[0][1].iter().zip(&outputs[1][1]) {
            assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "turn {turn}: {a} against {b}");
        }
    }
    // 105 to 110 rows are products of 112; 103 of 104.
    let steps = recorded.steps().unwrap();
    assert_eq!((steps.recorded, steps.replayed, &steps.failed), (1, 6 - 1, &None), "{steps:?}");
}

#[test]
fn a_step_that_is_read_before_its_end_runs_directly() {
    let (devices, recorded) = both();
    let mut kept = devices.each_ref().map(|device| Lasting::new(machine(device)).unwrap());
    recorded.step().unwrap();
    for turn in 1..5 {
        for (device, kept) in devices.iter().zip(&mut kept) {
            step(machine(device), kept, turn, 4).unwrap();
        }
        let [there, here] = [0, 1].map(|i| download::<f32>(machine(&devices[i]), &kept[i].sum, 16).unwrap());
        assert_eq!(there, here);
        recorded.step().unwrap();
    }
    let steps = recorded.steps().unwrap();
    assert_eq!((steps.recorded, steps.replayed, steps.direct), (0, 0, 4));
}

#[test]
fn what_the_host_brought_lasts_as_long_as_its_owner() {
    let (devices, recorded) = both();
    let device = &devices[0];
    let mut sum = Lasting::new(machine(device)).unwrap();
    let brought = upload(machine(device), &[1f32, 2.0, 3.0]).unwrap();
    for turn in 1..8 {
        step(machine(device), &mut sum, turn, 3).unwrap();
        recorded.step().unwrap();
        assert_eq!(download::<f32>(machine(device), &brought, 3).unwrap(), [1.0, 2.0, 3.0], "turn {turn}");
    }
    // A letter that is too small is followed by a larger one, and by no other as long as that one does.
    let long = vec![1.5f32; LETTER];
    for _ in 0..3 {
        let there = upload(machine(device), &long).unwrap();
        assert!(download::<f32>(machine(device), &there, LETTER).unwrap() == long);
        drop(there);
        recorded.step().unwrap();
    }
}

#[test]
fn a_product_of_some_rows_leaves_the_others_alone() {
    let (devices, _) = both();
    let (rows, width, all) = (105, 4, 112);
    let outputs = devices.each_ref().map(|device| {
        let x = device.reals(&(0..all * width).map(|i| (i as f64 * 0.37).fract()).collect::<Vec<f64>>()).unwrap();
        let w = device.reals(&vec![0.5; width * width]).unwrap();
        let [mut y, mut dw] = [device.reals(&vec![7.0; all * width]).unwrap(), device.zeros(width * width).unwrap()];
        let (runtime, of) = (machine(device), |data| MatIn::new(data, width));
        runtime.matmul(MatOut::new(&mut y, width), of(&x), of(&w), [rows, width, width], 1.0, Plus::Nothing).unwrap();
        runtime.matmul(MatOut::new(&mut dw, width), of(&x).t(), of(&y), [width, width, rows], 1.0, Plus::Before).unwrap();
        [&x, &y, &dw].map(|data| download::<f32>(runtime, data, data.len()).unwrap())
    });
    assert!(outputs[0] == outputs[1]);
    assert!(outputs[0][1][rows * width..].iter().all(|&y| y == 7.0));
}

#[test]
fn what_is_sent_between_steps_takes_no_more_memory() {
    let recorded = Recorded::new(emulator(), Graphs::Always).unwrap();
    for turn in 0..20 {
        // A letter of its own, and then some.
        let sent = upload(&recorded, &vec![turn as f32; LETTER / 4 + 1]).unwrap();
        assert_eq!(download::<f32>(&recorded, &sent, 1).unwrap(), [turn as f32]);
    }
    let state = recorded.locked();
    assert!(state.letters.len() + state.spare.len() <= 2, "{} and {} letters", state.letters.len(), state.spare.len());
}

/// What stays is as large as it is; what a step brings may come in a letter that is larger by a bound, and the next step's is not larger.
#[test]
fn large_lists_take_little_more_memory_than_they_are_long() {
    const BYTES: usize = 48 << 20;
    let watched = Arc::new(Watched::new(emulator()));
    let machine = Recorded::unproven(watched.clone());
    let list = vec![1u32; BYTES / 4];
    let kept = place(&machine, &list).unwrap();
    machine.step().unwrap();
    assert!(watched.most() <= (BYTES + BYTES / 8) as u64, "{} for {BYTES}", watched.most());
    let brought = upload(&machine, &list).unwrap();
    machine.step().unwrap();
    for _ in 0..3 {
        let few = upload(&machine, &[1u32; 8]).unwrap();
        assert_eq!(download::<u32>(&machine, &few, 8).unwrap(), [1; 8]);
        machine.step().unwrap();
    }
    let each = BYTES + BYTES / 8;
    assert!(watched.most() <= (2 * each + 4 * MOST_SPARE) as u64, "{} for {BYTES}", watched.most());
    drop((kept, brought));
}
