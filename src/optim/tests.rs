use super::*;
use crate::ops::central::noise;

fn param(device: &Device, name: &str, role: Role, shape: &[usize], lane: u8) -> Param {
    let n = shape.iter().product();
    Param {
        name: name.into(),
        shape: shape.to_vec(),
        role,
        value: device.reals(&noise(lane, n)).unwrap(),
        grad: device.zeros(n).unwrap(),
    }
}

fn set_grad(device: &Device, param: &mut Param, lane: u8) {
    param.grad = device.reals(&noise(lane, param.len())).unwrap();
}

fn config() -> config::Optim {
    config::Optim { weight_decay: 0.1, tables: "dense".into(), ..config::Optim::default() }
}

/// AdamW for one number, written from the paper.
struct Scalar {
    x: f64,
    m: f64,
    v: f64,
}

impl Scalar {
    fn step(&mut self, g: f64, t: i32, lr: f64, decay: f64, c: &config::Optim) {
        self.m = c.beta1 * self.m + (1.0 - c.beta1) * g;
        self.v = c.beta2 * self.v + (1.0 - c.beta2) * g * g;
        let (m, v) = (self.m / (1.0 - c.beta1.powi(t)), self.v / (1.0 - c.beta2.powi(t)));
        self.x -= lr * decay * self.x;
        self.x -= lr * m / (v.sqrt() + c.eps);
    }
}

#[test]
fn every_role_follows_the_scalar_rule() {
    let device = Device::ORACLE;
    for (decay_tables, clip) in [(false, 0.0), (true, 1.5)] {
        let c = config::Optim { decay_tables, clip, ..config() };
        let roles = [(Role::Matrix, true), (Role::Vector, false), (Role::Table, decay_tables)];
        let mut params: Vec<Param> =
            roles.iter().enumerate().map(|(i, r)| param(&device, &format!("p{i}"), r.0, &[7, 5], i as u8)).collect();
        let mut want: Vec<Vec<Scalar>> =
            (0..3).map(|i| noise(i, 35).iter().map(|&x| Scalar { x, m: 0.0, v: 0.0 }).collect()).collect();
        let mut optimizer = Optimizer::new(&device, &c, &params).unwrap();
        for t in 1..=6 {
            let lane = |i: usize| 10 + 3 * t as u8 + i as u8;
            params.iter_mut().enumerate().for_each(|(i, p)| set_grad(&device, p, lane(i)));
            let norm = optimizer.step(&device, &mut params, &[], t as u64, 0.01).unwrap().read(&device).unwrap();
            let square: f64 = (0..3).flat_map(|i| noise(lane(i), 35)).map(|g| g * g).sum();
            assert!((norm - square.sqrt()).abs() < 1e-12 * norm);
            let scale = if clip > 0.0 { (clip / norm).min(1.0) } else { 1.0 };
            for (i, want) in want.iter_mut().enumerate() {
                let grads = noise(lane(i), 35);
                let decay = if roles[i].1 { c.weight_decay } else { 0.0 };
                want.iter_mut().zip(&grads).for_each(|(w, g)| w.step(g * scale, t, 0.01, decay, &c));
                let got = params[i].value.to_f64(&device).unwrap();
                assert!(got.iter().zip(want.iter()).all(|(g, w)| (g - w.x).abs() < 1e-13 * (1.0 + w.x.abs())));
                assert!(params[i].grad.to_f64(&device).unwrap().iter().all(|&g| g == 0.0));
            }
        }
    }
}

#[test]
fn lazy_is_dense_when_every_row_is_touched() {
    let device = Device::HOST;
    let rows: Vec<u32> = (0..601).collect();
    let run = |tables: &str, touched: Option<&[u32]>| {
        let c = config::Optim { tables: tables.into(), decay_tables: true, ..config() };
        let mut params = vec![param(&device, "items", Role::Table, &[601, 9], 0)];
        let mut optimizer = Optimizer::new(&device, &c, &params).unwrap();
        assert_eq!(optimizer.is_by_row(0), tables == "lazy");
        for t in 1..=5 {
            set_grad(&device, &mut params[0], t as u8);
            optimizer.step(&device, &mut params, &[touched.map(Rows::Here)], t, 0.01).unwrap();
        }
        params[0].value.f32s().unwrap().to_vec()
    };
    let dense = run("dense", None);
    assert_eq!(dense, run("lazy", Some(&rows)));
    assert_eq!(dense, run("lazy", None));
}

#[test]
fn a_lazy_row_sleeps_and_catches_up() {
    let device = Device::ORACLE;
    let c = config::Optim { tables: "lazy".into(), decay_tables: true, ..config() };
    let mut params = vec![param(&device, "items", Role::Table, &[4, 3], 0)];
    let before = params[0].value.to_f64(&device).unwrap();
    let mut optimizer = Optimizer::new(&device, &c, &params).unwrap();
    let mut want: Vec<Scalar> = before[6..9].iter().map(|&x| Scalar { x, m: 0.0, v: 0.0 }).collect();
    for (t, touched) in [(1u64, vec![2u32]), (2, vec![0, 3]), (3, vec![]), (4, vec![1, 2])] {
        let mut grad = vec![0.0; 12];
        let fresh = noise(20 + t as u8, 12);
        touched.iter().for_each(|&r| grad[r as usize * 3..][..3].copy_from_slice(&fresh[r as usize * 3..][..3]));
        params[0].grad = device.reals(&grad).unwrap();
        optimizer.step(&device, &mut params, &[Some(Rows::Here(&touched))], t, 0.01).unwrap();
        for (w, &g) in want.iter_mut().zip(&fresh[6..9]) {
            match t {
                1 | 4 => w.step(g, t as i32, 0.01, c.weight_decay, &c),
                // Asleep: moments and value fade, momentum moves nothing.
                _ => (w.m, w.v, w.x) = (w.m * c.beta1, w.v * c.beta2, w.x * (1.0 - 0.01 * c.weight_decay)),
            }
        }
        assert!(params[0].grad.to_f64(&device).unwrap().iter().all(|&g| g == 0.0));
        let now = params[0].value.to_f64(&device).unwrap();
        if t == 3 {
            assert_eq!(now[3..6], before[3..6], "a row never touched never moves");
        }
        if t == 4 {
            assert!(now[6..9].iter().zip(&want).all(|(x, w)| (x - w.x).abs() < 1e-13));
        }
    }
}

/// Two rows of two, worked out by hand: the squares of (3, 4) are 12.5 on average, those of (1, 7) are 25.
#[test]
fn adagrad_follows_a_trajectory_worked_out_by_hand() {
    let device = Device::ORACLE;
    let c = config::Optim { tables: "adagrad".into(), decay_tables: true, weight_decay: 0.5, eps: 0.5, ..config() };
    let mut params = vec![param(&device, "items", Role::Table, &[3, 2], 0)];
    params[0].value = device.reals(&[1.0, -2.0, 10.0, 20.0, 0.0, 0.0]).unwrap();
    let mut optimizer = Optimizer::new(&device, &c, &params).unwrap();
    assert!(optimizer.is_by_row(0));
    let mut step = |t: u64, grad: [f64; 6], rows: Option<&[u32]>| {
        params[0].grad = device.reals(&grad).unwrap();
        optimizer.step(&device, &mut params, &[rows.map(Rows::Here)], t, 0.2).unwrap();
        assert!(params[0].grad.to_f64(&device).unwrap().iter().all(|&g| g == 0.0));
        let state = optimizer.state(&device, &params, t).unwrap();
        assert_eq!((state.len(), &*state[0].name, &*state[0].shape), (1, "items.sum", &[3][..]));
        (params[0].value.to_f64(&device).unwrap(), state[0].values.clone())
    };
    let near = |x: &[f64], y: &[f64]| x.iter().zip(y).for_each(|(x, y)| assert!((x - y).abs() < 1e-12, "{x} against {y}"));
    // keep = 1 - 0.2 0.5 = 0.9; the rate of row 0 is 0.2 / (sqrt(12.5) + 0.5), of row 2 as well, which has another sign.
    let (x, sums) = step(1, [3.0, 4.0, 0.0, 0.0, -4.0, 3.0], Some(&[0, 2]));
    let rate = 0.2 / (12.5_f64.sqrt() + 0.5);
    let first = [0.9 - 3.0 * rate, -1.8 - 4.0 * rate, 10.0, 20.0, 4.0 * rate, -3.0 * rate];
    near(&x, &first);
    assert_eq!(sums, [12.5, 0.0, 12.5]);
    // Row 1 for the first time: 25 on average, 0.2 / 5.5; it has not decayed before. The others sleep, undecayed.
    let (x, sums) = step(2, [0.0, 0.0, 1.0, 7.0, 0.0, 0.0], Some(&[1]));
    let second = [first[0], first[1], 9.0 - 0.2 / 5.5, 18.0 - 1.4 / 5.5, first[4], first[5]];
    near(&x, &second);
    assert_eq!(sums, [12.5, 25.0, 12.5]);
    // All rows: 12.5 + 3.5 is 16, 0.2 / 4.5; a row without gradient decays and nothing else, as row 1.
    let half = 3.5_f64.sqrt();
    let (x, sums) = step(3, [half, -half, 0.0, 0.0, half, half], None);
    let move_by = half * 0.2 / 4.5;
    let third = |i: usize, by: f64| 0.9 * second[i] - by;
    near(&x, &[third(0, move_by), third(1, -move_by), third(2, 0.0), third(3, 0.0), third(4, move_by), third(5, move_by)]);
    assert_eq!(sums, [16.0, 25.0, 16.0]);
}

/// The gradient that is squared is the clipped one, and tables decay only where they are asked to.
#[test]
fn adagrad_squares_what_clipping_leaves_and_decays_on_request() {
    let device = Device::ORACLE;
    let c = config::Optim { tables: "adagrad".into(), clip: 1.0, weight_decay: 0.5, eps: 1e-9, ..config() };
    let mut params = vec![param(&device, "items", Role::Table, &[1, 2], 0)];
    params[0].value = device.reals(&[1.0, 1.0]).unwrap();
    params[0].grad = device.reals(&[30.0, 40.0]).unwrap();
    let mut optimizer = Optimizer::new(&device, &c, &params).unwrap();
    let norm = optimizer.step(&device, &mut params, &[], 1, 0.1).unwrap().read(&device).unwrap();
    assert!((norm - 50.0).abs() < 1e-12);
    let rate = 0.1 / 0.5_f64.sqrt();
    let x = params[0].value.to_f64(&device).unwrap();
    assert!((x[0] - (1.0 - 0.6 * rate)).abs() < 1e-8 && (x[1] - (1.0 - 0.8 * rate)).abs() < 1e-8);
}

/// Moments are no sums: a checkpoint of one rule is refused by the other, before anything is changed.
#[test]
fn the_state_of_another_rule_is_refused() {
    let device = Device::HOST;
    let params = vec![param(&device, "items", Role::Table, &[5, 3], 0)];
    let of = |tables: &str| Optimizer::new(&device, &config::Optim { tables: tables.into(), ..config() }, &params).unwrap();
    for (one, other) in [("adagrad", "dense"), ("lazy", "adagrad")] {
        let state = of(one).state(&device, &params, 3).unwrap();
        let find = |name: &str| state.iter().find(|s| s.name == name).map(|s| &s.values[..]);
        assert_eq!(of(other).restore(&device, &params, 3, find).unwrap_err().code(), Code::M0402);
    }
}

#[test]
fn a_table_by_adagrad_takes_four_bytes_a_row() {
    let bytes = |tables: &str, table| Optimizer::bytes(&config::Optim { tables: tables.into(), ..config() }, &[1000, 64], table);
    assert_eq!([bytes("dense", true), bytes("lazy", true), bytes("adagrad", true)], [512_000, 520_000, 4_000]);
    assert_eq!(bytes("adagrad", false), 512_000);
}

#[test]
fn a_restored_optimizer_continues_to_the_bit_and_threads_change_nothing() {
    let device = Device::HOST;
    for (tables, arrays) in [("dense", 4), ("lazy", 5), ("adagrad", 3)] {
        let c = config::Optim { tables: tables.into(), decay_tables: true, clip: 1.0, ..config() };
        let fresh = || vec![param(&device, "items", Role::Table, &[500, 7], 0), param(&device, "w", Role::Matrix, &[33, 40], 1)];
        let touched: Vec<u32> = (0..500).filter(|r| r % 3 != 0).collect();
        let advance = |optimizer: &mut Optimizer, params: &mut Vec<Param>, steps: std::ops::Range<u64>| {
            for t in steps {
                set_grad(&device, &mut params[1], t as u8);
                let rows = if t % 2 == 0 { &touched[..] } else { &touched[..100] };
                let mut grad = vec![0.0; 3500];
                let noise = noise(t as u8, 3500);
                rows.iter().for_each(|&r| grad[r as usize * 7..][..7].copy_from_slice(&noise[r as usize * 7..][..7]));
                params[0].grad = device.reals(&grad).unwrap();
                optimizer.step(&device, params, &[Some(Rows::Here(rows))], t, 0.01).unwrap();
            }
        };
        let run = |interrupt: bool, threads: usize| {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
                let mut params = fresh();
                let mut optimizer = Optimizer::new(&device, &c, &params).unwrap();
                advance(&mut optimizer, &mut params, 1..5);
                if interrupt {
                    let state = optimizer.state(&device, &params, 4).unwrap();
                    optimizer = Optimizer::new(&device, &c, &params).unwrap();
                    let find = |name: &str| state.iter().find(|s| s.name == name).map(|s| &s.values[..]);
                    optimizer.restore(&device, &params, 4, find).unwrap();
                    let error = optimizer.restore(&device, &params, 4, |_| None).unwrap_err();
                    assert_eq!(error.code(), Code::M0402);
                }
                advance(&mut optimizer, &mut params, 5..9);
                let end = optimizer.state(&device, &params, 8).unwrap();
                (end, params.iter().map(|p| p.value.f32s().unwrap().to_vec()).collect::<Vec<_>>())
            })
        };
        let straight = run(false, 1);
        assert_eq!(straight.0.len(), arrays);
        assert!(straight == run(true, 1) && straight == run(false, 2) && straight == run(true, 5));
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing() {
    let device = Device::HOST;
    for bad in [f64::NAN, f64::INFINITY] {
        let mut params = vec![param(&device, "a", Role::Matrix, &[3, 3], 0), param(&device, "b", Role::Vector, &[3], 1)];
        let before: Vec<Vec<f64>> = params.iter().map(|p| p.value.to_f64(&device).unwrap()).collect();
        let mut optimizer = Optimizer::new(&device, &config(), &params).unwrap();
        set_grad(&device, &mut params[0], 5);
        params[1].grad = device.reals(&[0.0, bad, 1.0]).unwrap();
        assert_eq!(optimizer.step(&device, &mut params, &[], 1, 0.1).err().unwrap().code(), Code::T0701);
        let after: Vec<Vec<f64>> = params.iter().map(|p| p.value.to_f64(&device).unwrap()).collect();
        assert_eq!(before, after);
    }
}

#[test]
fn values_out_of_range_are_refused() {
    let bad = |change: fn(&mut config::Optim)| {
        let mut c = config();
        change(&mut c);
        Optimizer::new(&Device::HOST, &c, &[]).map(|_| ()).map_err(|e| e.code())
    };
    assert!(bad(|_| {}).is_ok());
    assert_eq!(bad(|c| c.kind = "adam".into()), Err(Code::C0202));
    assert_eq!(bad(|c| c.tables = "sparse".into()), Err(Code::C0202));
    assert_eq!(bad(|c| c.beta1 = 1.0), Err(Code::C0202));
    assert_eq!(bad(|c| c.beta2 = -0.1), Err(Code::C0202));
    assert_eq!(bad(|c| c.eps = 0.0), Err(Code::C0202));
    assert_eq!(bad(|c| c.weight_decay = f64::NAN), Err(Code::C0202));
    assert_eq!(bad(|c| c.clip = f64::INFINITY), Err(Code::C0202));
}

#[cfg(feature = "emulator")]
#[test]
fn kernels_agree_with_the_plain_path() {
    case::emulated::in_every_way(&cases());
}

/// Parameters side by side in a machine's memory are updated by as few launches as there are rates of decay, to the same bits.
#[cfg(feature = "emulator")]
#[test]
fn neighbours_in_memory_are_updated_together() {
    use crate::device::emulator::{Options, open};
    use crate::device::watched::Watched;
    let cache = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp/kernels");
    let machine = match open(&Options::new(cache)) {
        Ok(Device::Machine(machine)) => std::sync::Arc::new(Watched::new(machine)),
        Ok(_) => unreachable!("the emulator is a machine"),
        Err(error) => return println!("SKIPPED: {error:?}"),
    };
    let device = Device::Machine(machine.clone());
    let shapes = [
        ("table", Role::Table, vec![70, 9]),
        ("bias", Role::Vector, vec![1]),
        ("none", Role::Vector, vec![0]),
        ("gain", Role::Vector, vec![65]),
        ("w", Role::Matrix, vec![31, 33]),
        ("v", Role::Matrix, vec![64]),
    ];
    let run = |together: bool| {
        let sizes: Vec<usize> = shapes.iter().map(|(_, _, shape)| shape.iter().product()).collect();
        let places = || match together {
            true => Buffer::side_by_side(&device, &sizes).unwrap(),
            false => sizes.iter().map(|&n| device.zeros(n).unwrap()).collect(),
        };
        let all = shapes.iter().zip(places()).zip(places());
        let mut params: Vec<Param> = all
            .map(|((&(name, role, ref shape), value), grad)| Param { name: name.into(), shape: shape.clone(), role, value, grad })
            .collect();
        let fill = |buffer: &mut Buffer, lane: u8| buffer.set(&device, &noise(lane, buffer.len())).unwrap();
        params.iter_mut().enumerate().for_each(|(i, p)| fill(&mut p.value, i as u8));
        let mut optimizer = Optimizer::new(&device, &config(), &params).unwrap();
        let mut calls = Vec::new();
        for t in 1..=3u64 {
            params.iter_mut().enumerate().for_each(|(i, p)| fill(&mut p.grad, 10 * t as u8 + i as u8));
            machine.time();
            optimizer.step(&device, &mut params, &[], t, 0.01).unwrap();
            calls = machine.took().unwrap().into_iter().map(|call| call.what).collect();
        }
        let values: Vec<_> = params.iter().map(|p| (p.value.to_f64(&device).unwrap(), p.grad.to_f64(&device).unwrap())).collect();
        (values, optimizer.state(&device, &params, 3).unwrap(), calls)
    };
    let (alone, together) = (run(false), run(true));
    assert!(alone.0 == together.0 && alone.1 == together.1);
    assert_eq!(together.2, ["clip_square", "clip_factor", "adamw_dense", "adamw_dense"], "one for each rate of decay");
    assert_eq!(alone.2.len(), 5 + 1 + 5);
}

/// On a machine the state is kept in its memory and comes back through the same functions, to the bit.
#[cfg(feature = "emulator")]
#[test]
fn a_machine_restores_its_state() {
    use crate::device::emulator::{Options, open};
    let cache = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tmp/kernels");
    let device = match open(&Options::new(cache)) {
        Ok(device) => device,
        Err(error) => return println!("SKIPPED: {error:?}"),
    };
    let run = |tables: &str, interrupt: bool| {
        let c = config::Optim { tables: tables.into(), clip: 1.0, ..config() };
        let mut params = vec![param(&device, "items", Role::Table, &[50, 7], 0), param(&device, "w", Role::Matrix, &[5, 9], 1)];
        let mut optimizer = Optimizer::new(&device, &c, &params).unwrap();
        for t in 1..=6u64 {
            let rows: Vec<u32> = (0..50).filter(|r| u64::from(*r) % 5 == t % 3).collect();
            params.iter_mut().for_each(|p| set_grad(&device, p, t as u8));
            optimizer.step(&device, &mut params, &[Some(Rows::Here(&rows))], t, 0.01).unwrap();
            params[0].grad.clear(&device).unwrap();
            if interrupt && t == 3 {
                let state = optimizer.state(&device, &params, t).unwrap();
                optimizer = Optimizer::new(&device, &c, &params).unwrap();
                let find = |name: &str| state.iter().find(|s| s.name == name).map(|s| &s.values[..]);
                optimizer.restore(&device, &params, t, find).unwrap();
            }
        }
        let values: Vec<_> = params.iter().map(|p| p.value.to_f64(&device).unwrap()).collect();
        (optimizer.state(&device, &params, 6).unwrap(), values)
    };
    for tables in ["lazy", "adagrad"] {
        assert!(run(tables, false) == run(tables, true), "{tables}");
    }
}
