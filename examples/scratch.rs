use hardneg::train::fit::Training;
use hardneg::*;
use std::sync::Arc;
use std::time::Instant;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let mut c = config::Config::default();
    c.data.path = args[1].clone();
    let epochs: u64 = args[2].parse().unwrap();
    let text = args[3..].join("\n");
    let over: toml::Table = toml::from_str(&text).unwrap();
    let mut base = toml::Table::try_from(&c).unwrap();
    fn merge(a: &mut toml::Table, b: toml::Table) {
        for (k, v) in b {
            match (a.get_mut(&k), v) {
                (Some(toml::Value::Table(x)), toml::Value::Table(y)) => merge(x, y),
                (_, v) => {
                    a.insert(k, v);
                }
            }
        }
    }
    merge(&mut base, over);
    c = base.try_into().unwrap();
    let raw = data::read::read(&c.data, None, &mut |_| {}).unwrap();
    let log = Arc::new(
        data::prepare::prepare(
            raw,
            &c.data,
            None,
            &std::path::PathBuf::from(format!("/tmp/scratch-{}.hardneg", std::process::id())),
        )
        .unwrap(),
    );
    let split = Arc::new(data::split::Split::new(&log, &c.data, 42).unwrap());
    let context = data::context::ContextEncoder::fit(&log, &split, &c).unwrap();
    let clusters = log
        .times()
        .map(|_| data::clusters::TimeClusters::fit(&log, &split, c.data.clusters, data::clusters::Method::Bisecting).unwrap());
    let set = Arc::new(data::training::TrainingSet::new(log.clone(), split.clone(), &c, context, clusters).unwrap());
    println!("users {} items {} sequences {} rows {}", log.users(), log.items(), set.len(), set.rows());
    let dev = device::Device::HOST;
    let mut t = train::step::Trainer::new(&c, set.clone(), &dev).unwrap();
    let facts = eval::Facts::new(&log, &split, eval::Part::Test);
    let mut step = 0;
    for e in 0..epochs {
        let s = Instant::now();
        let (mut loss, mut rows, mut samp) = (0.0, 0, 0.0);
        for _ in 0..t.steps_per_epoch() {
            let r = t.step(step).unwrap();
            loss += r.loss * r.rows as f64;
            rows += r.rows;
            samp += r.sampling_seconds;
            step += 1;
        }
        let tt = s.elapsed().as_secs_f64();
        let s = Instant::now();
        let mut out = String::new();
        if e % 5 == 4 || e + 1 == epochs {
            for (name, targets) in [("valid", &split.valid), ("test", &split.test)] {
                let mut r = eval::Encoder::new(&mut t.model, &dev, "m").unwrap();
                let ev = eval::evaluate(&mut r, &mut |x| Ok(set.requests(x)), targets, &facts, &c.eval, &mut |_, _| {}).unwrap();
                out += &format!(" {name} hr {:.4} ndcg {:.4}", ev.get("hr@10").unwrap(), ev.get("ndcg@10").unwrap());
            }
        }
        println!("{e} {tt:.1}s loss {:.4} sampling {samp:.2} eval {:.1}s{out}", loss / rows as f64, s.elapsed().as_secs_f64());
    }
}
