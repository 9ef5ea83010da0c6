//! Whether the tests of the samplers would notice a broken sampler. All mutants are written into one copy of the sources, each
//! behind a switch, so that one build serves them all; then the library's tests run once with each switched on, and one of them
//! must fail. The faults are those found in public code, and those a hand slips into.
//!
//! The build takes minutes, so it runs when asked: `cargo test --test it sampler_mutants -- --ignored --nocapture`, with a part
//! of a description in `MUTANTS` to try those alone. That every mutant has its place in the sources is tested always. What the
//! statistics see, law by law, is in `src/sampling/tests/mutants.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What is wrong, where (in `src/sampling`, or a folder beside it), and what stands there and what does instead: expressions,
/// or statements with their semicolon.
type Mutant = (&'static str, &'static str, &'static str, &'static str);

#[rustfmt::skip]
const MUTANTS: &[Mutant] = &[
    ("uniform: the last item is out of reach", "propose/uniform.rs",
     "below(words[0], self.catalogue.len() as u64) as u32",
     "below(words[0], self.catalogue.len() as u64 - 1) as u32"),
    ("uniform: scaled in f32", "propose/uniform.rs",
     "below(words[0], self.catalogue.len() as u64) as u32",
     "((words[0] >> 40) as f32 / 16777216.0 * self.catalogue.len() as f32) as u32"),
    ("uniform: by the remainder of 16 bits", "propose/uniform.rs",
     "below(words[0], self.catalogue.len() as u64) as u32",
     "((words[0] >> 48) % self.catalogue.len() as u64) as u32"),
    ("popularity: another exponent", "propose/popularity.rs",
     "f.powf(alpha)",
     "f.powf(alpha * 0.98)"),
    ("popularity: a curve that stands still", "propose/popularity.rs",
     "params.number(\"alpha\", epoch as f64)",
     "params.number(\"alpha\", 0.0 * epoch as f64)"),
    ("curves: tables of the epoch before", "per_epoch.rs",
     "kept.0 != epoch",
     "kept.0 != epoch && epoch % 2 == 0"),
    ("popularity: log1p without its one", "propose/popularity.rs",
     "1.0 + f.ln_1p()",
     "f.ln_1p()"),
    ("alias: columns without their aliases", "alias.rs",
     "(held >> self.threshold_bits) as u32",
     "column as u32"),
    ("alias: masses through f32", "alias.rs",
     "((w / top * scale).round() as u64).max(1)",
     "(((w / top) as f32 * scale as f32).round() as u64).max(1)"),
    ("alias: rare items rounded to nothing", "alias.rs",
     "((w / top * scale).round() as u64).max(1)",
     "((w / top * 16777216.0).round() / 16777216.0 * scale) as u64"),
    ("cluster: always the first cluster", "propose/cluster.rs",
     "table.alias.draw(words[0])",
     "self.tables[0].alias.draw(words[0]).min(table.items.len() as u32)"),
    ("cluster: items of a cluster off by one", "propose/cluster.rs",
     "table.items[entry as usize - 1]",
     "table.items[entry as usize % table.items.len()]"),
    ("mixture: shares unnormalised", "propose/mixture.rs",
     "share / total",
     "*share"),
    ("mixture: log q of one component", "propose/mixture.rs",
     "probs.iter_mut().zip(&of_part).for_each(|(prob, of_part)| *prob += share * of_part);",
     "probs.iter_mut().zip(&of_part).for_each(|(prob, of_part)| *prob = *of_part);"),
    ("mixture: one word for the component and the item", "propose/mixture.rs",
     "self.parts[component].draw(place, &words[1..])",
     "self.parts[component].draw(place, words)"),
    ("in batch: the excluded stay in the sum", "propose/in_batch.rs",
     "(b.targets.len() - gone) as f64",
     "(b.targets.len() - 0 * gone) as f64"),
    ("explicit: what is said later is known", "propose/explicit.rs",
     "of_item[next.start] <= of_event[event]",
     "of_item[next.start] <= of_event[event] + 2"),
    ("neighbours and walks: held-out events are looked at", "knowledge.rs",
     "get(from as usize..to as usize)",
     "get(from as usize..to as usize + 1)"),
    ("same attribute: the target is not left out", "propose/one_of_group.rs",
     "if mark >= self.own.0 { mark + self.own.1 } else { mark }",
     "mark"),
    ("user walk: the last item of a history is out of reach", "propose/user_walk.rs",
     "below(words[1], theirs.len() as u64)",
     "below(words[1], theirs.len().max(2) as u64 - 1)"),
    ("draw: excluded items are kept", "propose/draw.rs",
     "*id == NONE || worker.excluded.contains(*id)",
     "*id == NONE"),
    ("draw: the next item instead of another draw", "propose/draw.rs",
     "self.again(worker, group, base | (start + slot as u64))",
     "self.again(worker, group, base | (start + slot as u64)).map(|i| { let next = id.wrapping_add(1); if (next as usize) < self.rules.catalogue.items() && self.rules.catalogue.contains(next) && !worker.excluded.contains(next) { next } else { i } })"),
    ("draw: log q of the unconditional law", "propose/draw.rs",
     "prob.ln() - left.ln()",
     "prob.ln()"),
    ("draw: every block of slots has the same words", "propose/draw.rs",
     "filled as u64",
     "0"),
    ("draw: every epoch has the same words", "propose/draw.rs",
     "Draws::new(self.rules.seed, Stream::Propose, 0, self.rules.epoch_index)",
     "Draws::new(self.rules.seed, Stream::Propose, 0, 0)"),
    ("draw: the key is the row's place in its sequence", "propose/draw.rs",
     "Group { key: batch.row_keys[r], place, user, sequence, extra }",
     "Group { key: t as u64, place, user, sequence, extra }"),
    ("draw: exclusions of a sequence are not taken back", "propose/draw.rs",
     "sequence.iter().for_each(|&i| worker.excluded.remove(i));",
     ""),
    ("draw: what is left is that of the sequence before", "propose/draw.rs",
     "worker.remaining.clear();",
     ""),
    ("draw: the enumerated rest is that of the sequence before", "propose/draw.rs",
     "worker.rest = None;",
     ""),
    ("draw: without repetition repeats", "propose/draw.rs",
     "self.rules.distinct && *id != NONE",
     "false"),
    ("draw: the wrong axis of what is dropped", "propose/draw.rs",
     "if rules.scope == Scope::Sequence { b } else { 0 }",
     "0"),
    ("draw: the enumerated rest is drawn from evenly", "propose/draw.rs",
     "sum += prob;",
     "sum += 1.0;"),
    ("softmax draw: the proposal's probability multiplies", "ops/softmax_draw.rs",
     "*of -= f64::from(q)",
     "*of += f64::from(q)"),
    ("softmax draw: the wrong axis of the probabilities", "ops/softmax_draw.rs",
     "&lists.log_q[g * lists.n..(g + 1) * lists.n]",
     "&lists.log_q[..lists.n]"),
    ("softmax draw: within a tile the difficulty is one", "ops/softmax_draw.rs",
     "s.iter_mut().for_each(|s| *s *= T::from_f64(rule.beta));",
     ""),
    ("softmax draw: the tile of a drawn item keeps its weight", "ops/softmax_draw.rs",
     "weights.of[tile] = items.total;",
     ""),
    ("softmax draw: log q given the tile alone", "ops/softmax_draw.rs",
     "items.of[at].ln() - total.ln()",
     "items.of[at].ln() - items.total.ln()"),
    ("top k: the lowest are kept", "ops/score_topk.rs",
     "b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(a.1.cmp(&b.1))",
     "a.0.partial_cmp(&b.0).unwrap_or(Ordering::Equal).then(a.1.cmp(&b.1))"),
    ("top k: ties go to the higher item", "ops/score_topk.rs",
     "b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(a.1.cmp(&b.1))",
     "b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(b.1.cmp(&a.1))"),
    ("rank band: begins one place lower", "select/rank_band.rs",
     "(from - 1).min(to.saturating_sub(choice.negatives))",
     "from.min(to.saturating_sub(choice.negatives))"),
    ("adaptive: the positive is not looked at", "select/adaptive.rs",
     "row.positive + alpha",
     "alpha"),
    ("posterior: the prior is left out", "select/posterior.rs",
     "f64::from(choice.priors[item as usize])",
     "0.0 * f64::from(choice.priors[item as usize])"),
    ("metropolis: the proposal's law is not undone", "select/metropolis.rs",
     "power * s[j] - f64::from(log_q[j])",
     "power * s[j]"),
    ("memory: never renewed", "select/memory.rs",
     "users.insert(user, memory);",
     "{ users.entry(user).or_insert(memory); }"),
    ("memory: not emptied before it is restored", "select/memory.rs",
     "users.clear();",
     ""),
    ("memory: the variance is the squared score", "select/memory.rs",
     "a * off * off",
     "a * x * x"),
    ("pool: renewed at every visit", "select/pool.rs",
     "users.get(&user).is_some_and(|pool| pool.epoch == epoch)",
     "false"),
    ("pool: never renewed", "select/pool.rs",
     "users.get(&user).is_some_and(|pool| pool.epoch == epoch)",
     "users.contains_key(&user)"),
    ("generator and policy: no baseline", "select/learned.rs",
     "r - baseline",
     "*r"),
    ("fair: groups with a larger loss are drawn more", "select/fair.rs",
     "f64::from(self.share[z]) - rate * moment",
     "f64::from(self.share[z]) + rate * moment"),
    ("gates: the relevant is looked for", "select/gates.rs",
     "keeps * all - relevant",
     "keeps * all + relevant"),
    ("policy: the worst end is kept", "select/policy.rs",
     "walks.iter().map(|walk| walk.1).min()",
     "walks.iter().map(|walk| walk.1).max()"),
    ("buckets: the easiest bucket of a row", "select/buckets.rs",
     "total > hardest[row as usize].0",
     "hardest[row as usize].1.is_none() || total < hardest[row as usize].0"),
    ("interpolate: one share for all rows", "mix/interpolate.rs",
     "slot_index(key, 0)",
     "slot_index(0 * key, 0)"),
    ("wrong context: where the target is popular", "mix/wrong_context.rs",
     "1.0 / (1.0 + f64::from(counts.count(k, target)).ln_1p())",
     "1.0 + f64::from(counts.count(k, target)).ln_1p()"),
    ("attention: not corrected for the draw", "weight/attention.rs",
     "s / temperature - q",
     "s / temperature - 0.0 * q"),
    ("divergence: a fixed temperature", "weight/divergence.rs",
     "(2.0 * rho / variance).sqrt()",
     "(2.0 * rho).sqrt()"),
    ("weights: the wrong axis of log q", "weight/mod.rs",
     "negatives.log_q[groups[r] as usize * n + j]",
     "negatives.log_q[r % negatives.groups() * n + j]"),
    ("weights: those of rows replace what the selection gave", "weight/mod.rs",
     "so_far(row) * of_items[target as usize]",
     "of_items[target as usize]"),
    ("category balance: items and not events are counted", "weight/category_balance.rs",
     "groups.of_code(code).iter().map(|&item| events(item)).sum()",
     "groups.of_code(code).iter().map(|&item| events(item).min(1.0)).sum()"),
    ("propensity: the popular count more", "weight/propensity.rs",
     "(top / f64::from(f.max(1))).powf(eta)",
     "(f64::from(f.max(1)) / top).powf(eta)"),
];

/// In the sources.
fn place(file: &str) -> String {
    if file.starts_with("ops/") { format!("src/{file}") } else { format!("src/sampling/{file}") }
}

#[test]
fn every_mutant_has_its_place() {
    for (what, file, right, wrong) in MUTANTS {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(place(file))).unwrap();
        assert_eq!(text.matches(right).count(), 1, "{what}: `{right}` in {file}");
        assert!(right != wrong, "{what}");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// Puts every mutant behind `crate::mutant(its number)`.
fn switch(root: &Path) {
    let mut places: BTreeMap<(&str, &str), Vec<(usize, &str)>> = BTreeMap::new();
    for (number, (_, file, right, wrong)) in MUTANTS.iter().enumerate() {
        places.entry((file, right)).or_default().push((number, wrong));
    }
    for ((file, right), wrongs) in places {
        let path = root.join(place(file));
        let choices: String = wrongs.iter().map(|(n, wrong)| format!("if crate::mutant({n}) {{ {wrong} }} else ")).collect();
        let all = format!("{choices}{{ {right} }}");
        let all = if right.ends_with(';') { all } else { format!("({all})") };
        fs::write(&path, fs::read_to_string(&path).unwrap().replacen(right, &all, 1)).unwrap();
    }
    let lib = root.join("src/lib.rs");
    let switch = "\n#[allow(clippy::all)]\npub fn mutant(number: usize) -> bool {
    static ON: std::sync::OnceLock<Option<usize>> = std::sync::OnceLock::new();
    *ON.get_or_init(|| std::env::var(\"MUTANT\").ok()?.parse().ok()) == Some(number)\n}\n";
    fs::write(&lib, fs::read_to_string(&lib).unwrap() + switch).unwrap();
}

/// The tests of the library in `root`, built.
fn built(root: &Path) -> PathBuf {
    let mut command = Command::new(env!("CARGO"));
    // What the library needs is built already.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    command.current_dir(root).env("CARGO_TARGET_DIR", target);
    command.args(["test", "--offline", "--lib", "--no-run", "--message-format=json-render-diagnostics"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "the copy with all mutants does not build:\n{}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8(output.stdout).unwrap();
    let messages = messages.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    messages.filter_map(|message| Some(message["executable"].as_str()?.into())).next_back().unwrap()
}

/// The first test that fails with `mutant` switched on.
fn failing(tests: &Path, mutant: Option<usize>) -> Option<String> {
    let mut command = Command::new(tests);
    command.stdout(Stdio::piped()).stderr(Stdio::null()).current_dir(env!("CARGO_MANIFEST_DIR"));
    command.arg("sampling::");
    if let Some(number) = mutant {
        command.env("MUTANT", number.to_string());
    }
    let mut run = command.spawn().unwrap();
    let lines = BufReader::new(run.stdout.take().unwrap()).lines().map_while(Result::ok);
    let failed = |line: String| Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_string());
    let first = lines.filter_map(failed).next();
    if first.is_some() {
        run.kill().unwrap();
    }
    assert!(run.wait().unwrap().success() || first.is_some(), "the tests of mutant {mutant:?} stop without a failure");
    first
}

#[test]
#[ignore = "builds the library anew"]
fn broken_samplers_are_noticed() {
    let only = std::env::var("MUTANTS").unwrap_or_default();
    let (root, copied) = (Path::new(env!("CARGO_MANIFEST_DIR")), Path::new(env!("CARGO_TARGET_TMPDIR")).join("sampler-mutants"));
    for folder in ["src", "kernels", "tests", "benches"] {
        let _ = fs::remove_dir_all(copied.join(folder));
        copy(&root.join(folder), &copied.join(folder));
    }
    for file in ["Cargo.toml", "Cargo.lock", "build.rs", "README.md"] {
        fs::copy(root.join(file), copied.join(file)).unwrap();
    }
    switch(&copied);
    let tests = built(&copied);
    assert_eq!(failing(&tests, None), None, "with every mutant switched off");
    let mut survivors = vec![];
    for (number, (what, ..)) in MUTANTS.iter().enumerate().filter(|(_, (what, ..))| what.contains(&only)) {
        match failing(&tests, Some(number)) {
            Some(test) => println!("caught: {what}, by {test}"),
            None => survivors.push(*what),
        }
    }
    assert!(survivors.is_empty(), "not caught: {survivors:#?}");
}
