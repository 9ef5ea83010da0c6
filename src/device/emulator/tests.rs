//! The emulator's own tests: kernels that break each rule, and what is said of them; a kernel that breaks none; memory,
//! products and recordings. The vocabulary is proven by the cases of `ops/vocabulary.rs`.

mod hopper;

use super::*;
use crate::device::{Plus, download, upload};

const MISUSE: &str = include_str!("tests/misuse.cu");

fn emulator(checked: bool, schedule: Schedule) -> Arc<Emulator> {
    let cache = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp/kernels");
    let extra_sources = vec![("misuse".to_string(), MISUSE.to_string())];
    let memory_bytes = 1 << 30;
    Emulator::open(&Options { checked, schedule, extra_sources, memory_bytes, ..Options::new(cache) }).unwrap()
}

/// Launches a kernel of misuse.cu on `y (64)` and, if it takes one, an input of 64 ones.
fn misuse(machine: &Emulator, entry: &'static str, grid: Grid, more: &[u32]) -> std::result::Result<Vec<f32>, String> {
    let x = upload(machine, &[1f32; 64]).unwrap();
    let mut y = upload(machine, &[2f32; 64]).unwrap();
    let text = &MISUSE[MISUSE.find(&format!(" {entry})")).unwrap()..];
    let takes_x = text[..text.find('{').unwrap()].contains("* x");
    let mut args = vec![Arg::Out(&mut y)];
    args.extend(takes_x.then_some(Arg::In(&x)));
    args.extend(more.iter().map(|&n| Arg::U32(n)));
    let done = machine.launch(&Kernel::new("misuse", entry, &[]), grid, &mut args);
    done.map_err(|e| e.what().to_string())?;
    Ok(download(machine, &y, 64).unwrap())
}

/// The line of `sought` in misuse.cu after the head of `entry`.
fn line(entry: &str, sought: &str) -> String {
    let head = MISUSE.find(&format!(" {entry})")).unwrap();
    let at = head + MISUSE[head..].find(sought).unwrap();
    format!("misuse.cu:{}", MISUSE[..at].lines().count())
}

/// Each kernel's first fault; `{text}` stands for the line that holds `text`.
const FAULTS: &[(&str, u32, &[u32], Mode, &str)] = &[
    ("some_wait", 96, &[], Always, "deadlock:\n  threads 0-39 waiting at __syncthreads ({__sync})\n  threads 40-95 exited"),
    (
        "two_barriers",
        96,
        &[],
        Always,
        "barrier divergence: thread 40 arrives at __syncthreads ({else}) while others wait at __syncthreads ({if})",
    ),
    (
        "warp_parts",
        32,
        &[],
        Always,
        "warp divergence: lane 31 of warp 0 arrives at __shfl_xor_sync mask ffffffff ({xor}) while lanes 7fffffff wait at __shfl_down_sync ({down})",
    ),
    (
        "lane_missing",
        32,
        &[],
        Always,
        "deadlock:\n  threads 0-4, 6-31 waiting at __syncwarp mask ffffffff ({__sync})\n  threads 5 exited",
    ),
    ("not_in_mask", 32, &[], Always, "__syncwarp ({__sync}): lane 16 calls it with mask 0000ffff, which does not name it"),
    (
        "reads_outside_mask",
        32,
        &[],
        Always,
        "__shfl_sync ({__shfl}): lane 0 reads from lane 20, which mask 0000ffff does not name",
    ),
    (
        "tensor_parts",
        32,
        &[],
        Always,
        "deadlock:\n  threads 0-15 waiting at ldmatrix_x4 mask ffffffff ({ldm})\n  threads 16-31 exited",
    ),
    ("shared_overrun", 64, &[], Fast, "shared memory written past the end of 's_x' (256 bytes) at +0"),
    ("shared_overrun", 64, &[], Checked, "out of bounds: 4-byte write at {+ 1}: shared 's_x'+256 of 256 bytes"),
    ("index", 64, &[], Always, "index 16 is out of the array's bounds ({== 63})"),
    ("index_unrolled", 32, &[], Always, "index 4 is out of the array's bounds ({<= 4})"),
    ("past_the_end", 64, &[3], Fast, "global memory written past the end of argument 0 of past_the_end (256 bytes) at +0"),
    ("past_the_end", 64, &[3], Checked, "out of bounds: 4-byte write at {+ n}: argument 0 of 256 bytes, offset 256"),
    ("read_past_the_end", 64, &[], Checked, "out of bounds: 4-byte read at {+ 1}: argument 1 of 256 bytes, offset 256"),
    ("no_memory", 32, &[], Always, "out of bounds: an access at {<<} to no memory at all, or misaligned"),
    ("unwritten_shared", 64, &[], Checked, "uninitialised: 4-byte read at {y[thread}: shared 's_x'+252 of 256 bytes"),
    (
        "race_shared",
        64,
        &[],
        Checked,
        "race: write by thread 31 at {s_x[t] = 1}, read by thread 32 at {y[t]}, no synchronisation between: shared 's_x'+124 of 256 bytes",
    ),
    (
        "race_shuffle",
        32,
        &[],
        Checked,
        "race: write by thread 30 at {= 1;}, read by thread 31 at {+ v}, no synchronisation between: shared 's_x'+120 of 128 bytes",
    ),
    (
        "race_same_value",
        64,
        &[],
        Checked,
        "race: write by thread 0 at {y[0]}, write by thread 1 at {y[0]}, no synchronisation between: argument 0 of 256 bytes, offset 0",
    ),
    (
        "race_atomic",
        64,
        &[],
        Checked,
        "race: write by thread 0 at {= 3}, atomic by thread 1 at {atomicAdd}, no synchronisation between: argument 0 of 256 bytes, offset 0",
    ),
    (
        "no_wait",
        32,
        &[],
        Checked,
        "asynchronous copy under way (is a cp_async_wait missing?): 4-byte read at {y[thread}: shared 's_x'+0 of 128 bytes",
    ),
    (
        "weak_wait",
        32,
        &[],
        Checked,
        "asynchronous copy under way (is a cp_async_wait missing?): 4-byte read at {y[thread}: shared 's_x'+0 of 128 bytes",
    ),
    ("misaligned_copy", 32, &[], Always, "cp_async_16 ({cp_async_16}): misaligned source"),
    ("deep", 32, &[], Always, "stack overflow: a kernel thread has 64 KB for its local variables"),
    ("writes_input", 32, &[], Checked, "write to an input: 4-byte write at {const_cast}: argument 1 of 256 bytes, offset 0"),
    ("big_shared", 64, &[], Always, "SHARED s_x ({SHARED}): 51200 bytes of static shared memory, a kernel may declare 49152"),
    ("no_dynamic", 64, &[], Always, "SHARED_DYN s_x ({SHARED_DYN}): the launch gives no dynamic shared memory"),
    ("fine", 96, &[], Always, "fine: 96 threads were asked for, the kernel is bound to 64"),
    ("fine", 33, &[], Always, "fine: a block of 33 threads is not a multiple of a warp's 32"),
    ("fine", 64, &[1], Always, "fine takes 2 arguments, 3 were given"),
    ("past_the_end", 64, &[], Always, "past_the_end takes 2 arguments, 1 were given"),
    (
        "never_full",
        64,
        &[],
        Always,
        "deadlock:\n  threads 0-63 waiting at mbarrier_wait for 's_bar'+0, parity 0, where 1 of 2 arrivals and 0 bytes are missing ({mbarrier_wait})",
    ),
    ("never_init", 32, &[], Always, "mbarrier_wait ({mbarrier_wait}): no mbarrier_init of 's_bar'+0"),
    (
        "init_unseen",
        32,
        &[],
        Checked,
        "race: write by thread 0 at {mbarrier_init}, atomic by thread 1 at {mbarrier_arrive}, no synchronisation between: shared 's_bar'+0 of 8 bytes",
    ),
    (
        "too_many",
        32,
        &[],
        Always,
        "mbarrier_arrive ({mbarrier_arrive(}): all 1 have arrived at 's_bar'+0, which waits for 16 bytes",
    ),
    ("overwritten", 32, &[], Fast, "mbarrier_arrive ({mbarrier_arrive}): the mbarrier 's_bar'+0 was overwritten"),
    ("bulk_misaligned", 32, &[], Always, "copy_bulk ({copy_bulk}): misaligned source"),
    ("bulk_odd", 32, &[], Always, "copy_bulk ({copy_bulk}): 20 bytes are no multiple of 16"),
    ("bulk_too_much", 32, &[], Always, "copy_bulk ({copy_bulk}): 128 bytes land at 's_bar'+0, which expects 64 more"),
    (
        "bulk_too_little",
        32,
        &[],
        Always,
        "deadlock:\n  threads 0-31 waiting at mbarrier_wait for 's_bar'+0, parity 0, where 0 of 1 arrivals and 32 bytes are missing ({mbarrier_wait})",
    ),
    ("bulk_unfenced", 32, &[], Always, "copy_bulk ({copy_bulk}): no mbarrier_init_fence after the mbarrier_init of 's_bar'+0"),
    (
        "bulk_no_wait",
        32,
        &[],
        Checked,
        "copy_bulk under way (is an mbarrier_wait missing?): 4-byte read at {y[thread}: shared 's_x'+0 of 128 bytes",
    ),
    ("bulk_left", 32, &[], Always, "copy_bulk ({copy_bulk}): the block ends while it is under way"),
    (
        "bulk_over_writes",
        32,
        &[],
        Checked,
        "no fence_async after the write by thread 0 at {= 0;}, which a copy_bulk at {copy_bulk} does not see without: shared 's_x'+0 of 128 bytes",
    ),
    (
        "bulk_over_reads",
        64,
        &[],
        Checked,
        "race: read by thread 0 at {y[thread}, write by a copy_bulk at {copy_bulk}, no synchronisation between: shared 's_x'+0 of 128 bytes",
    ),
    ("group_parts", 128, &[], Always, "deadlock:\n  threads 0-95 waiting at wgmma ({< 96})\n  threads 96-127 exited"),
    ("group_parts", 96, &[], Always, "wgmma ({< 96}): warp 0 is in no whole warpgroup"),
    (
        "group_lines",
        128,
        &[],
        Always,
        "warpgroup divergence: thread 127 arrives at wgmma ({else}) while others wait at wgmma ({< 96})",
    ),
    ("group_descriptors", 128, &[], Always, "wgmma ({== 70}): thread 70 of the warpgroup has another descriptor than thread 0"),
    ("group_unfenced", 128, &[], Always, "wgmma ({wgmma}): no wgmma_fence by warp 0 since its last wgmma_wait"),
    ("group_misaligned", 128, &[], Always, "wgmma ({wgmma_bf16}): a does not begin at a multiple of 1024 bytes"),
    ("group_mode", 128, &[], Always, "wgmma ({wgmma_bf16}): b is not in the mode of 128 bytes"),
    ("group_outside", 128, &[], Always, "wgmma ({wgmma_bf16}): row 64 of b is outside of shared memory"),
    (
        "group_writes_unseen",
        128,
        &[],
        Checked,
        "no fence_async after the write by thread 0 at {TILES}, which a product of warp 0 at {wgmma_bf16} does not see without: shared 's_a'+0 of 16384 bytes",
    ),
    (
        "group_writes_early",
        128,
        &[],
        Checked,
        "race: read by a product of warp 0 at {wgmma_bf16}, write by thread 0 at {= 1;}, no synchronisation between: shared 's_a'+0 of 16384 bytes",
    ),
];

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Fast,
    Checked,
    Always,
}
use Mode::{Always, Checked, Fast};

#[test]
fn every_rule_has_a_kernel_that_breaks_it_and_a_text_that_says_so() {
    let mut wrong = vec![];
    for checked in [false, true] {
        let machine = emulator(checked, Schedule::Forward);
        for &(entry, threads, more, mode, expected) in FAULTS {
            if mode != Always && (mode == Checked) != checked {
                continue;
            }
            let mut wanted = String::new();
            for (i, part) in expected.split(['{', '}']).enumerate() {
                wanted += &if i % 2 == 0 { part.to_string() } else { line(entry, part) };
            }
            let wanted = Err(format!("misuse.cu, {entry}: {wanted}"));
            let said = misuse(&machine, entry, Grid::row(1, threads), more);
            if said != wanted {
                wrong.push(format!("checked: {checked}\n{said:?} instead of\n{wanted:?}"));
            }
        }
        let said = misuse(&machine, "misaligned", Grid::row(1, 32), &[]).unwrap_err();
        let wanted = line("misaligned", "float4");
        assert!(said.contains("misaligned") && said.contains(&wanted), "{said}");
        // A machine goes on after a fault.
        assert_eq!(misuse(&machine, "fine", Grid::row(1, 64), &[]).unwrap(), [1.0; 64]);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_fault_in_a_function_names_the_kernels_line_too() {
    let machine = emulator(true, Schedule::Forward);
    let place = |text: &str| format!("misuse.cu:{}", MISUSE[..MISUSE.find(text).unwrap()].lines().count());
    let said = misuse(&machine, "part_in_a_function", Grid::row(1, 32), &[]).unwrap_err();
    let (inner, outer) = (place("x += __shfl_xor_sync(~0u, x, step)"), place("y[0] = warp_sum"));
    assert!(said.contains(&format!("__shfl_xor_sync mask ffffffff ({inner}, from {outer})")), "{said}");
    let said = misuse(&machine, "race_in_a_function", Grid::row(1, 32), &[]).unwrap_err();
    let (inner, outer) = (place("*to = x"), place("put(y, 3.0f)"));
    assert!(said.contains(&format!("race: write by thread 0 at {inner} (from {outer}), write")), "{said}");
}

#[test]
fn a_race_between_blocks_is_seen_whatever_their_order() {
    for schedule in [Schedule::Forward, Schedule::Reverse, Schedule::Random(3)] {
        let machine = emulator(true, schedule);
        let said = misuse(&machine, "race_blocks", Grid::row(3, 64), &[]).unwrap_err();
        assert!(said.contains("race: write by thread 0 of another block at misuse.cu"), "{said}");
        assert!(misuse(&machine, "race_blocks", Grid::row(1, 64), &[]).is_ok());
        assert_eq!(misuse(&machine, "fine", Grid::row(1, 64), &[]).unwrap(), [1.0; 64]);
    }
}

#[test]
fn arguments_are_held_to_the_kernels_own_types() {
    let machine = emulator(false, Schedule::Forward);
    let x = upload(&*machine, &[1f32; 64]).unwrap();
    let kernel = Kernel::new("misuse", "takes", &[]);
    let said = |args: &mut [Arg]| {
        let error = machine.launch(&kernel, Grid::row(1, 32), args).unwrap_err();
        error.what().strip_prefix("misuse.cu, takes: ").unwrap().to_string()
    };
    let mut y = upload(&*machine, &[1f32; 64]).unwrap();
    let mut rest = |third: Arg, fourth: Arg| said(&mut [Arg::Out(&mut y), Arg::In(&x), third, fourth, Arg::U64(1)]);
    assert_eq!(rest(Arg::U64(1), Arg::F32(1.0)), "argument 2 of takes: the kernel takes 4 bytes, 8 were given");
    assert_eq!(rest(Arg::U32(1), Arg::U32(1)), "argument 3 of takes: the kernel takes a float, an integer was given");
    assert_eq!(rest(Arg::None, Arg::F32(1.0)), "argument 2 of takes: the kernel takes a number, a pointer was given");
    let input = said(&mut [Arg::In(&x), Arg::In(&x), Arg::U32(1), Arg::F32(1.0), Arg::U64(1)]);
    assert_eq!(input, "argument 0 of takes: an input was given, but the kernel's pointer is not const");
    let absent = said(&mut [Arg::None, Arg::In(&x), Arg::U32(1), Arg::F32(1.0), Arg::U64(1)]);
    assert_eq!(absent, format!("null pointer ({})", line("takes", "y[0]")));
    let address = Buffer::machine(Memory { address: 64, bytes: 256, owner: Box::new(()) }, 64);
    let dead = said(&mut [Arg::Out(&mut y), Arg::In(&address), Arg::U32(1), Arg::F32(1.0), Arg::U64(1)]);
    assert_eq!(dead, "argument 1 of takes: 0x40 is no live device memory of 256 bytes");
    machine
        .launch(&kernel, Grid::row(1, 32), &mut [Arg::Out(&mut y), Arg::In(&x), Arg::U32(1), Arg::F32(1.0), Arg::U64(1)])
        .unwrap();
}

#[test]
fn memory_starts_as_nothing_and_reading_it_is_a_fault_where_accesses_are_checked() {
    for checked in [false, true] {
        let machine = emulator(checked, Schedule::Forward);
        let mut fresh = Buffer::machine(machine.alloc(256).unwrap(), 64);
        let done = machine.launch(&Kernel::new("misuse", "adds", &[]), Grid::row(1, 64), &mut [Arg::Out(&mut fresh)]);
        if checked {
            let said = done.unwrap_err().what().to_string();
            let wanted = format!("uninitialised: 4-byte read at {}: argument 0 of 256 bytes, offset 0", line("adds", "+="));
            assert!(said.contains(&wanted), "{said}");
            assert!(download::<f32>(&*machine, &fresh, 64).unwrap_err().what().contains("never written"));
        } else {
            assert!(download::<f32>(&*machine, &fresh, 64).unwrap().iter().all(|x| x.is_nan()));
        }
        // A buffer in use for less than it holds ends there.
        let mut part = upload(&*machine, &[0f32; 64]).unwrap();
        part.resize(&Device::Machine(machine.clone()), 60).unwrap();
        let done = machine.launch(&Kernel::new("misuse", "adds", &[]), Grid::row(1, 64), &mut [Arg::Out(&mut part)]);
        assert_eq!(done.is_err(), checked);
    }
    let machine = emulator(false, Schedule::Forward);
    let full = machine.alloc(2 << 30).err().unwrap();
    assert_eq!(full.code(), Code::G0601);
    // Freed memory is given out again.
    (0..100).for_each(|_| drop(machine.alloc(100 << 20).unwrap()));
}

#[test]
fn traffic_is_counted_where_accesses_are_checked() {
    let machine = emulator(true, Schedule::Forward);
    misuse(&machine, "fine", Grid::row(1, 64), &[]).unwrap();
    let counted = machine.counters();
    assert_eq!((counted.launches, counted.distinct_read, counted.distinct_written), (1, 256, 256));
    misuse(&machine, "reads_twice", Grid::row(1, 64), &[]).unwrap();
    let counted = machine.counters();
    assert_eq!((counted.distinct_read, counted.issued_read), (128, 512));
    assert_eq!((counted.distinct_written, counted.issued_written), (256, 256));
}

#[test]
fn products_agree_with_the_plain_ones() {
    let machine = emulator(true, Schedule::Forward);
    let number = |i: usize| ((i * 37 % 11) as f32) - 5.0;
    let values: Vec<f32> = (0..200).map(number).collect();
    let (data, [m, n, k]) = (upload(&*machine, &values).unwrap(), [4, 5, 7]);
    let row = upload(&*machine, &[10.0f32, 20.0, 30.0, 40.0, 50.0]).unwrap();
    for (transpose_a, transpose_b, plus) in [
        (false, false, Plus::Nothing),
        (true, false, Plus::Before),
        (false, true, Plus::Row(&row)),
        (true, true, Plus::Before),
        (false, true, Plus::Nothing),
    ] {
        let mut c = upload(&*machine, &[0.5f32; 60]).unwrap();
        let stride = |transposed, columns, rows| if transposed { rows + 2 } else { columns + 2 };
        let operand = |transposed, first, stride| MatIn { data: &data, first, stride, transposed };
        let (a, b) = (stride(transpose_a, k, m), stride(transpose_b, n, k));
        let to = MatOut { data: &mut c, first: 3, stride: 9 };
        let inputs = (operand(transpose_a, 1, a), operand(transpose_b, 90, b));
        machine.matmul(to, inputs.0, inputs.1, [m, n, k], 2.0, plus).unwrap();
        let c: Vec<f32> = download(&*machine, &c, 60).unwrap();
        let at = |transposed, first, stride, i, j| values[first + if transposed { j * stride + i } else { i * stride + j }];
        for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
            let sum: f32 = (0..k).map(|l| at(transpose_a, 1, a, i, l) * at(transpose_b, 90, b, l, j)).sum();
            let added = match plus {
                Plus::Nothing => 0.0,
                Plus::Before => 0.5,
                Plus::Row(_) => 10.0 * (j + 1) as f32,
            };
            assert_eq!(c[3 + i * 9 + j], 2.0 * sum + added);
        }
        assert_eq!((c[2], c[8], c[3 + n]), (0.5, 0.5, 0.5), "only the result is touched");
    }
    let mut fresh = Buffer::machine(machine.alloc(80).unwrap(), 20);
    let operand = |data, stride| MatIn { data, first: 0, stride, transposed: false };
    let whole = [operand(&data, k), operand(&data, n)];
    machine.matmul(MatOut { data: &mut fresh, first: 0, stride: n }, whole[0], whole[1], [m, n, k], 1.0, Plus::Nothing).unwrap();
    assert!(download::<f32>(&*machine, &fresh, 20).is_ok(), "a product's result counts as written");
    let unwritten = Buffer::machine(machine.alloc(400).unwrap(), 100);
    let error = machine.matmul(
        MatOut { data: &mut fresh, first: 0, stride: n },
        operand(&unwritten, k),
        whole[1],
        [m, n, k],
        1.0,
        Plus::Nothing,
    );
    assert!(error.unwrap_err().what().contains("uninitialised: A, row 0, column 0"));
    let mut refused = |row: &Buffer| {
        let to = MatOut { data: &mut fresh, first: 0, stride: n };
        machine.matmul(to, whole[0], whole[1], [m, n, k], 1.0, Plus::Row(row)).unwrap_err().what().to_string()
    };
    assert!(refused(&data).contains("leaves its buffers"), "a row of another width");
    let unwritten = Buffer::machine(machine.alloc(4 * n).unwrap(), n);
    assert!(refused(&unwritten).contains("uninitialised: the row"));
}

#[test]
fn a_recording_does_nothing_until_it_is_replayed_and_refuses_freed_memory() {
    let machine = emulator(true, Schedule::Forward);
    let mut y = upload(&*machine, &[0f32; 64]).unwrap();
    let kernel = Kernel::new("misuse", "adds", &[]);
    let recorded = machine.capture(&mut || machine.launch(&kernel, Grid::row(1, 64), &mut [Arg::Out(&mut y)])).unwrap();
    assert_eq!(download::<f32>(&*machine, &y, 64).unwrap(), [0.0; 64]);
    (0..3).for_each(|_| machine.replay(&recorded).unwrap());
    assert_eq!(download::<f32>(&*machine, &y, 64).unwrap(), [3.0; 64]);
    drop(y);
    // Even where new memory lies at the old address.
    let _other = upload(&*machine, &[0f32; 64]).unwrap();
    assert!(machine.replay(&recorded).unwrap_err().what().contains("freed"));
    assert!(machine.capture(&mut || upload(&*machine, &[1f32]).map(drop)).is_err());
    assert!(upload(&*machine, &[1f32]).is_ok(), "a failed recording ends");
}

#[test]
fn numbers_are_exact_or_stray_as_a_gpus_may() {
    let cache = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp/kernels");
    let x: Vec<f32> = (0..32).map(|i| 1.0 + 0.029 * (i as f32 - 16.0)).collect();
    let numbers = |arithmetic| {
        let extra_sources = vec![("arithmetic".to_string(), include_str!("tests/arithmetic.cu").to_string())];
        let machine = Emulator::open(&Options { arithmetic, extra_sources, ..Options::new(&cache) }).unwrap();
        let (mut y, x) = (upload(&*machine, &[0f32; 192]).unwrap(), upload(&*machine, &x).unwrap());
        let mut args = [Arg::Out(&mut y), Arg::In(&x)];
        machine.launch(&Kernel::new("arithmetic", "arithmetic", &[]), Grid::row(1, 32), &mut args).unwrap();
        download(&*machine, &y, 192).unwrap()
    };
    let (plain, gpu) = (numbers(Arithmetic::Plain), numbers(Arithmetic::LikeAGpu));
    let part = |all: &[f32], i: usize| all[32 * i..32 * (i + 1)].to_vec();
    assert!(part(&plain, 0).iter().all(|y| *y == 0.0), "nothing is fused");
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("fma") {
        assert!(part(&gpu, 0).iter().filter(|y| **y != 0.0).count() > 16, "products are fused");
    }
    assert!(part(&gpu, 1).iter().all(|y| *y == 0.0), "but for those that are rounded on their own");
    let apart = |i: usize| {
        let (plain, gpu) = (part(&plain, i), part(&gpu, i));
        plain.iter().zip(&gpu).map(|(a, b)| a.to_bits().abs_diff(b.to_bits())).collect::<Vec<_>>()
    };
    assert_eq!((apart(2).iter().min(), apart(2).iter().max()), (Some(&0), Some(&2)), "units of expf");
    let logarithms = part(&gpu, 3);
    let off = x.iter().zip(&logarithms).map(|(x, y)| (f64::from(*x).ln() - f64::from(*y)).abs()).fold(0.0, f64::max);
    assert!(off > 1e-7 && off < 2.4e-7 && x[16] == 1.0 && logarithms[16] == 0.0, "{off}");
    assert!(part(&plain, 4).iter().any(|y| *y != 0.0) && part(&gpu, 4).iter().all(|y| *y == 0.0), "subnormals");
    assert_eq!((plain[160], gpu[160]), (2f32.powi(-24), 0.0), "sums of tensor cores are cut");
}

#[test]
fn time_passes() {
    let machine = emulator(false, Schedule::Forward);
    let (from, to) = (machine.mark().unwrap(), machine.mark().unwrap());
    assert!((0.0..60.0).contains(&machine.elapsed(&from, &to).unwrap()));
}

#[test]
fn what_does_not_compile_is_an_error_with_the_compilers_words() {
    let cache = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp/kernels");
    let extra_sources =
        vec![("broken".to_string(), "#include \"device.cuh\"\nKERNEL(32, broken)(int n) { m = n; }\n".to_string())];
    let machine = Emulator::open(&Options { extra_sources, ..Options::new(cache) }).unwrap();
    let error = machine.launch(&Kernel::new("broken", "broken", &[]), Grid::row(1, 32), &mut [Arg::U32(1)]).unwrap_err();
    assert_eq!(error.code(), Code::G0504);
    assert!(error.to_string().contains("broken.cu:2:"), "{error}");
    let error = machine.launch(&Kernel::new("nothing", "nothing", &[]), Grid::row(1, 32), &mut []).unwrap_err();
    assert!(error.what().contains("no source"), "{error}");
}
