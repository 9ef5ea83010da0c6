//! Invented logs of every format and every fault.

use std::io::Write;
use std::path::PathBuf;

use proptest::prelude::*;

use super::blocks::run_sized;
use super::*;
use crate::data::raw::RawValues;

/// A folder with one log in it.
struct Log {
    folder: tempfile::TempDir,
    config: Data,
}

impl Log {
    fn new(name: &str, bytes: impl AsRef<[u8]>) -> Log {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let config = Data { path: path.display().to_string(), max_bad_share: 1.0, ..Data::default() };
        Log { folder, config }
    }
    fn with(mut self, change: impl FnOnce(&mut Data)) -> Log {
        change(&mut self.config);
        self
    }
    fn path(&self) -> PathBuf {
        PathBuf::from(&self.config.path)
    }
    fn read(&self) -> Result<RawLog> {
        read(&self.config, Some(self.folder.path()), &mut |_| {})
    }
    fn layout(&self) -> Layout {
        detect(&self.path(), &self.config).unwrap().layout
    }
    fn code(&self) -> Code {
        match self.read() {
            Ok(log) => panic!("{} rows were read where an error was due", log.users.len()),
            Err(error) => {
                assert!(error.to_string().contains("help"), "no cure is named: {error}");
                error.code()
            }
        }
    }
}

/// Rows as (user, item, second).
fn rows(log: &RawLog) -> Vec<(String, String, Option<i64>)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (0..log.users.len())
        .map(|i| {
            let time = log.times.as_ref().map(|t| t[i] / 1_000_000);
            (text(log.user_ids.get(log.users[i])), text(log.item_ids.get(log.items[i])), time)
        })
        .collect()
}

fn row(user: &str, item: &str, second: i64) -> (String, String, Option<i64>) {
    (user.into(), item.into(), Some(second))
}

/// The rejected classes of a log with their counts.
fn classes(log: &RawLog) -> Vec<(&str, u64)> {
    log.rejected.classes.iter().map(|(name, class)| (name.as_str(), class.rows)).collect()
}

const T: i64 = 1_300_000_000;

#[test]
fn one_log_in_every_format() {
    let expected = vec![row("ann", "x1", T), row("bob", "x2", T + 60), row("ann", "x2", T + 120)];
    let ragged = |log: Log, times: &str| {
        std::fs::write(log.folder.path().join("log_time.txt"), times).unwrap();
        log
    };
    let table = [("ann", "x1", 0), ("bob", "x2", 60), ("ann", "x2", 120)];
    let lines =
        |form: &dyn Fn(&str, &str, i64) -> String| -> String { table.iter().map(|(u, i, t)| form(u, i, T + t) + "\n").collect() };
    let utf16: Vec<u8> = format!("user,item,time\n{}", lines(&|u, i, t| format!("{u},{i},{t}")))
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let logs = [
        ("delimited", Log::new("a.csv", format!("user_id,item_id,timestamp\n{}", lines(&|u, i, t| format!("{u},{i},{t}"))))),
        ("delimited", Log::new("b.csv", format!("userId;movieId;ts\r\n{}", lines(&|u, i, t| format!("\"{u}\";\"{i}\";{t}\r"))))),
        ("delimited", Log::new("c.dat", lines(&|u, i, t| format!("{u}::{i}::5::{t}")))),
        ("delimited", Log::new("d.tsv", lines(&|u, i, t| format!("{u}\t{i}\t3\t{t}000")))),
        ("delimited", Log::new("e.txt", lines(&|u, i, t| format!("{u}|{i}|{}", time::show(t * 1_000_000))))),
        (
            "delimited",
            Log::new(
                "f.csv",
                [b"\xEF\xBB\xBFuser,item,time,\n", lines(&|u, i, t| format!("{u}, {i} ,{t},")).as_bytes()].concat(),
            ),
        ),
        ("delimited", Log::new("g.csv", utf16)),
        (
            "delimited",
            Log::new("h.csv", format!("time,rating,uid,iid\n{}", lines(&|u, i, t| format!("{t},1,{u},{i}"))).trim_end()),
        ),
        (
            "recbole",
            Log::new(
                "i.inter",
                format!("user_id:token\titem_id:token\ttimestamp:float\n{}", lines(&|u, i, t| format!("{u}\t{i}\t{t}.0"))),
            ),
        ),
        (
            "jsonl",
            Log::new(
                "j.jsonl",
                lines(&|u, i, t| {
                    format!("{{\"user_id\": \"{u}\", \"n\": [1], \"item_id\": \"\\u0078{}\", \"timestamp\": {t}}}", &i[1..])
                }),
            ),
        ),
        ("s3rec", ragged(Log::new("log_item.txt", "u1 x1 x2 x3\nu2 x2\n"), &format!("u1 {T} {T} {T}\nu2 {T}\n"))),
    ];
    for (format, log) in logs {
        let name = log.path().file_name().unwrap().to_string_lossy().into_owned();
        let found = detect(&log.path(), &log.config).unwrap();
        assert_eq!(found.layout.format, format, "{name}: {found:#?}");
        let read = log.read().unwrap();
        assert_eq!(read.rejected.total(), 0, "{name}: {:?}", read.rejected);
        if format == "s3rec" {
            assert_eq!(rows(&read), vec![row("u1", "x1", T), row("u1", "x2", T), row("u1", "x3", T), row("u2", "x2", T)]);
        } else {
            assert_eq!(rows(&read), expected, "{name}: {found:#?}");
        }
    }
}

#[test]
fn sasrec_pairs_and_ragged_lines_are_told_apart() {
    let pairs = Log::new("a.txt", "1 5\n1 6\n2 5\n2 9\n");
    assert_eq!(pairs.layout().format, "sasrec");
    assert!(pairs.read().unwrap().times.is_none());
    let ragged = Log::new("b.txt", "1 5 6 7\n2 5 9\n3 8\n4 1 2 3 4\n");
    assert_eq!(ragged.layout().format, "s3rec");
    let log = ragged.read().unwrap();
    assert_eq!((log.users.len(), log.user_ids.len()), (10, 4));
    assert!(log.times.is_none());
    let equal = Log::new("d.txt", "1 5 6 7 8\n2 5 9 8 1\n3 8 9 4 6\n4 1 2 3 4\n");
    assert!(inspect(&equal.path(), &equal.config).unwrap().warnings.iter().any(|w| w.contains("data.format = \"s3rec\"")));
    assert_eq!(equal.with(|c| c.format = "s3rec".into()).read().unwrap().users.len(), 16);
    assert_eq!(Log::new("c.txt", "The log was lost.\nNo more than a word remains of it\n").code(), Code::D0103);
}

#[test]
fn every_class_of_bad_row_is_counted_with_its_line() {
    let good = format!("7,8,3.5,{T}\n").repeat(20);
    for (bad, class) in [
        ("7,8,3.5", "ragged_row"),
        ("7,8,3.5,1300000000,9,9", "ragged_row"),
        (",8,3.5,1300000000", "empty_id"),
        ("7,\"\",3.5,1300000000", "empty_id"),
        ("7,8,3.5,", "missing_time"),
        ("7,8,3.5,soon", "bad_time"),
        ("7,8,3.5,2019-13-01", "bad_time"),
        ("7,8,3.5,-4", "negative_time"),
        ("7,8,3.5,0", "zero_time"),
        ("7,8,3.5,9999999999", "far_future_time"),
        ("7,8,3.5,99999999999999999999999", "far_future_time"),
        ("7,8,3.5,1300000000000", "mixed_time_unit"),
        ("7,8,1e99,1300000000", "bad_weight"),
        ("7,8,five,1300000000", "bad_weight"),
        ("7,\"8\"x,3.5,1300000000", "unbalanced_quote"),
        ("7,\"8,3.5,1300000000", "unbalanced_quote"),
    ] {
        let log = Log::new("log.csv", format!("user,item,rating,time\n{good}{bad}\n{good}"));
        let read = log.read().unwrap_or_else(|e| panic!("{bad}: {e}"));
        assert_eq!(classes(&read), [(class, 1)], "{bad}");
        assert_eq!(read.rejected.classes[class].first, [22], "{bad}");
        assert_eq!(read.users.len(), 40, "{bad}");
        let kept = std::fs::read_to_string(read.rejected.quarantine.as_ref().unwrap()).unwrap();
        assert_eq!(kept, format!("22\t{class}\t{bad}\n"));
        // The same row is fatal under `fail`, and under a small enough share.
        let fatal =
            Log::new("log.csv", format!("user,item,rating,time\n{good}{bad}\n{good}")).with(|c| c.on_bad_row = "fail".into());
        let error = fatal.read().err().unwrap();
        assert_eq!(error.code(), Code::D0107);
        assert!(error.to_string().contains("log.csv:22"), "{error}");
        assert_eq!(log.with(|c| c.max_bad_share = 0.01).code(), Code::D0106, "{bad}");
    }
}

#[test]
fn bad_lines_of_json_and_ragged_files_are_counted() {
    let good = format!("{{\"user\": 1, \"item\": 2, \"time\": {T}, \"rating\": 4}}\n");
    for (bad, class) in [
        ("{\"user\": 1", "bad_json"),
        ("not json", "bad_json"),
        ("[1, 2]", "bad_json"),
        ("{\"user\": 1, \"time\": 1300000000, \"rating\": 4}", "missing_field"),
        ("{\"user\": null, \"item\": 2, \"time\": 1300000000, \"rating\": 4}", "missing_field"),
        ("{\"user\": \"\", \"item\": 2, \"time\": 1300000000, \"rating\": 4}", "empty_id"),
        ("{\"user\": 1, \"item\": 2, \"rating\": 4}", "missing_time"),
        ("{\"user\": 1, \"item\": 2, \"time\": \"x\", \"rating\": 4}", "bad_time"),
        ("{\"user\": 1, \"item\": 2, \"time\": 1300000000, \"rating\": \"x\"}", "bad_weight"),
    ] {
        let read = Log::new("log.jsonl", format!("{good}{good}{good}{bad}\n{good}")).read().unwrap();
        assert_eq!(classes(&read), [(class, 1)], "{bad}");
        assert_eq!(read.rejected.classes[class].first, [4], "{bad}");
    }
    let large = Log::new("log.jsonl", "{\"user\": 18446744073709551617, \"item\": 9007199254740993}\n").read().unwrap();
    assert_eq!(large.user_ids.get(0), b"18446744073709551617", "numbers keep every digit");
    assert_eq!(large.item_ids.get(0), b"9007199254740993");

    let ragged = |items: &str, times: &str| {
        let log = Log::new("log_item.txt", items).with(|c| c.format = "s3rec".into());
        std::fs::write(log.folder.path().join("log_time.txt"), times).unwrap();
        log
    };
    let read = ragged(
        "1 5 6\n2 7\n3 8 9 4\n4\n5 1\n",
        "1 1300000000 1300000001\n2 1300000000 1300000005\n9 1300000000 1300000000 1300000000\n4\n5 0\n",
    )
    .read()
    .unwrap();
    assert_eq!(classes(&read), [("misaligned_times", 2), ("ragged_row", 1), ("zero_time", 1)]);
    assert_eq!(read.users.len(), 2);
    assert_eq!(ragged("1 5 6\n2 7\n", "1 1300000000 1300000001\n").code(), Code::D0111);
    assert_eq!(ragged("1 5 6\n", "1 1300000000 1300000001\n2 1300000000\n").code(), Code::D0111);
    assert_eq!(ragged("1 5 6\n", "words, no times\n").code(), Code::D0111);
}

#[test]
fn a_line_without_end_is_set_aside_in_bounded_memory() {
    let mut text = b"1,2,1300000000\n".to_vec();
    text.resize(text.len() + (17 << 20), b'7');
    text.extend_from_slice(b"\n3,4,1300000001\n");
    for end in [text.len(), text.len() - 16] {
        let log = Log::new("log.csv", &text[..end]);
        for size in [compress::BLOCK, 40 << 20] {
            let read = read_in_blocks(&log, size);
            assert_eq!(classes(&read), [("long_line", 1)]);
            assert_eq!(read.rejected.classes["long_line"].first, [2]);
            assert_eq!(read.users.len(), if end == text.len() { 2 } else { 1 });
        }
    }
}

#[test]
fn a_tenth_of_garbage_does_not_stop_a_read() {
    let mut text = String::from("user\titem\ttimestamp\n");
    for i in 0..1000 {
        if i % 10 == 3 {
            text.push_str("\u{1b}[2J~~garbage~~\n");
        }
        text.push_str(&format!("{}\t{}\t{}\n", i % 37, i % 53, T + i));
    }
    let read = Log::new("log.tsv", text).with(|c| c.max_bad_share = 0.25).read().unwrap();
    assert_eq!((read.users.len(), classes(&read)), (1000, vec![("ragged_row", 100)]));
}

#[test]
fn what_cannot_be_a_log_is_a_typed_error() {
    assert_eq!(Log::new("a", "").code(), Code::D0102);
    assert_eq!(Log::new("a", "\n\n  \n").code(), Code::D0102);
    assert_eq!(Log::new("a.csv", "user_id,item_id,timestamp\n").code(), Code::D0102);
    assert_eq!(Log::new("a.inter", "user_id:token\titem_id:token\n").code(), Code::D0102);
    assert_eq!(Log::new("a", "word\nword\nword\n").code(), Code::D0103);
    assert_eq!(Log::new("a.json", "[{\"user\": 1, \"item\": 2}]").code(), Code::D0103);
    assert_eq!(Log::new("a.npy", b"\x93NUMPY\x01\0v\0").code(), Code::D0110);
    assert_eq!(Log::new("a.pkl", b"\x80\x05\x95\0\0\0").code(), Code::D0110);
    assert_eq!(Log::new("a.csv", "colour,shape,size\nred,round,4\nblue,long,5\n").code(), Code::D0104);
    assert_eq!(Log::new("a.csv", "user,user,item\n1,2,3\n4,5,6\n").code(), Code::D0104);
    assert_eq!(
        Log::new("a.parquet", b"PAR1 and nothing else").code(),
        if cfg!(feature = "parquet") { Code::D0109 } else { Code::D0110 }
    );
    let table = "user,item,time\n1,2,1300000000\n";
    assert_eq!(Log::new("a", table).with(|c| c.user_col = "who".into()).code(), Code::D0104);
    assert_eq!(Log::new("a", table).with(|c| c.user_col = "4".into()).code(), Code::D0104);
    assert_eq!(Log::new("a", table).with(|c| c.user_col = "item".into()).code(), Code::D0104);
    assert_eq!(Log::new("a", table).with(|c| c.min_weight = Some(4.0)).code(), Code::D0104);
    assert_eq!(Log::new("a", table).with(|c| c.times_path = "times.txt".into()).code(), Code::C0203);
    assert_eq!(Log::new("a.h", b"hardneg\0\x01\0\0\0").code(), Code::D0110);
    let carriage = Log::new("a.csv", table.replace('\n', "\r"));
    assert_eq!(carriage.code(), Code::D0103);
    assert!(carriage.read().err().unwrap().to_string().contains("carriage return"));
    for spoil in [
        |c: &mut Data| c.format = "xml".into(),
        |c: &mut Data| c.header = "maybe".into(),
        |c: &mut Data| c.encoding = "ebcdic".into(),
        |c: &mut Data| c.time_unit = "fortnights".into(),
        |c: &mut Data| c.on_bad_row = "weep".into(),
        |c: &mut Data| c.context = vec!["time:colour".into()],
    ] {
        assert_eq!(Log::new("a", table).with(spoil).code(), Code::C0202);
    }
    let mut gz = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    gz.write_all("1,2,1300000000\n".repeat(5000).as_bytes()).unwrap();
    let gz = gz.finish().unwrap();
    assert_eq!(Log::new("a.gz", &gz[..gz.len() - 12]).code(), Code::D0105);
}

#[test]
fn columns_are_found_by_declaration_name_or_content() {
    let roles = |text: &str, change: fn(&mut Data)| {
        let l = Log::new("log", text).with(change).layout();
        (l.user + 1, l.item + 1, l.time.map(|c| c + 1), l.weight.map(|c| c + 1))
    };
    let nothing: fn(&mut Data) = |_| {};
    assert_eq!(roles("timestamp,visitorid,event,itemid\n1433221332117,257597,view,355908\n", nothing), (2, 4, Some(1), None));
    assert_eq!(roles("A39,0205616461,5.0,1369699200\nB1,0558925278,3.0,1355443200\n", nothing), (1, 2, Some(4), Some(3)));
    assert_eq!(roles(",user_id,item_id,stars\n0,7,8,2\n1,7,9,3\n", nothing), (2, 3, None, Some(4)));
    assert_eq!(roles("7\t8\t4\n7\t9\t5\n", nothing), (1, 2, None, Some(3)));
    assert_eq!(roles("a;b\nc;d\n", nothing), (1, 2, None, None));
    assert_eq!(roles("session_id,user_id,item_id\n1,2,3\n", nothing), (2, 3, None, None), "a user goes before a session");
    // A check-in log: user, time, coordinates, place.
    let places: String = (0..60)
        .map(|i| {
            format!("{}\t2010-10-19T23:55:{:02}Z\t{}\t-97.{}\t{}\n", i % 5, i, 30.1 + 0.01 * i as f64, 100 + i, 900 + i % 30)
        })
        .collect();
    assert_eq!(roles(&places, nothing), (1, 5, Some(2), None));
    let declared: fn(&mut Data) = |c| {
        c.user_col = "3".into();
        c.item_col = "b".into();
        c.time_col = "none".into();
        c.header = "yes".into();
    };
    assert_eq!(roles("a,b,time\n1,2,1300000000\n", declared), (3, 2, None, None));
}

#[test]
fn a_row_without_a_weight_is_read_unless_weights_decide() {
    let weights = ["", "NA", "\\N", "null", "nan"];
    let (mut csv, mut json) = (String::from("user,item,rating,time\n"), String::new());
    for i in 0..20 {
        let weight = weights.get(i).copied().unwrap_or("4");
        csv += &format!("u{i},i{i},{weight},{}\n", T + i as i64);
        let weight = ["", "\"rating\": null, ", "\"rating\": \"NA\", "].get(i).copied().unwrap_or("\"rating\": 4, ");
        json += &format!("{{\"user\": {i}, \"item\": {i}, {weight}\"time\": {}}}\n", T + i as i64);
    }
    for (log, without) in [(Log::new("a.csv", &csv), 5), (Log::new("a.jsonl", &json), 3)] {
        let read = log.read().unwrap();
        assert_eq!((read.users.len(), read.rejected.total()), (20, 0));
        assert_eq!(read.weights.unwrap().iter().filter(|w| w.is_nan()).count(), without);
        let seen = inspect(&log.path(), &log.config).unwrap().weights.unwrap();
        assert_eq!((seen.lowest, seen.highest), (4.0, 4.0));
        let decided = log.with(|c| c.min_weight = Some(3.0)).read().unwrap();
        assert_eq!((decided.users.len(), classes(&decided)), (20 - without, vec![("bad_weight", without as u64)]));
    }
}

#[test]
fn declared_context_columns_are_read() {
    let text = format!("user,item,time,device,price,c_hour_c\n1,2,{T},phone,2.5,h1\n1,3,{T},,NA,h2\n2,3,{T},tv,x,h1\n");
    let log = Log::new("log.csv", &text).with(|c| c.context = vec!["device:cat".into(), "price:num".into()]).read().unwrap();
    assert_eq!(classes(&log), [("bad_context", 1)]);
    assert_eq!(log.context.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["device", "price"]);
    match (&log.context[0].values, &log.context[1].values) {
        (RawValues::Categorical { codes, ids }, RawValues::Numeric(prices)) => {
            assert_eq!((codes.as_slice(), ids.get(0), ids.get(1)), (&[0, 1][..], &b"phone"[..], &b""[..]));
            assert!(prices[0] == 2.5 && prices[1].is_nan());
        }
        _ => panic!("the kinds are not as declared"),
    }
    let prefixed = Log::new("log.csv", &text).read().unwrap();
    assert_eq!(prefixed.context.len(), 1, "columns with the prefix c_ are context by custom");
    assert_eq!(prefixed.context[0].name, "c_hour_c");
}

/// Reads a delimited log in blocks of a chosen size.
fn read_in_blocks(log: &Log, size: usize) -> RawLog {
    let (path, layout) = (log.path(), log.layout());
    let mut rows = Rows::new(&path, &layout, &log.config, None).unwrap();
    run_sized(&Job { path: &path, layout: &layout }, delimited::parse, &mut rows, &mut |_| {}, size).unwrap();
    rows.finish(&layout).unwrap()
}

#[test]
fn blocks_and_threads_do_not_change_the_log() {
    let mut text = String::from("user,item,time\r\n");
    for i in 0..400 {
        let item = match i % 7 {
            0 => format!("\"two\nlines {i}\""),
            1 => format!("\"a \"\"quote\"\" {}\"", i % 20),
            2 => format!("\"open {i}"),
            3 => "\"bad\"end".into(),
            _ => format!("i{}", i % 31),
        };
        let end = if i % 3 == 0 { "\r\n" } else { "\n" };
        // A quote that is never closed costs its row: whatever happens has to happen in all ways of reading.
        text.push_str(&format!("u{},{item},{}{end}", i % 13, T + i));
    }
    let log = Log::new("log.csv", &text);
    let whole = read_in_blocks(&log, compress::BLOCK);
    assert!(whole.users.len() > 50 && whole.rejected.total() > 50 && whole.spanning.records > 50);
    for (size, threads) in [(1, 1), (2, 2), (7, 3), (64, 1), (1000, 4)] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let other = pool.install(|| read_in_blocks(&log, size));
        assert_eq!(rows(&other), rows(&whole), "blocks of {size}");
        assert_eq!(format!("{:?}", other.rejected), format!("{:?}", whole.rejected), "blocks of {size}");
        assert_eq!(other.spanning, whole.spanning, "blocks of {size}");
    }
}

#[test]
fn semicolons_with_decimal_commas_are_told_from_commas_with_lists() {
    let table = |header: &str, row: &dyn Fn(i64) -> String| {
        let rows: String = (0..30).map(|i| row(i) + "\n").collect();
        Log::new("log.csv", format!("{header}{rows}")).layout().delimiter
    };
    let price = |i: i64| format!("u{};i{i};{};{},{i}0", i % 7, T + i, i % 3);
    assert_eq!(table("user_id;item_id;timestamp;price\n", &price), ";");
    assert_eq!(table("", &price), ";", "a comma between digits is no separator where semicolons are");
    assert_eq!(table("user,item,tags\n", &|i| format!("u{i},i{},a;b;c;d", i % 5)), ",");
    assert_eq!(table("", &|i| format!("{i},{},3;4;5;6", i % 5)), ",");
    assert_eq!(table("user,item,time\n", &|i| format!("u{i},i{},2020-01-01 00:00:{i:02}", i % 5)), ",");
    assert_eq!(table("", &|i| format!("u{i},i{},Tue Apr 03 18:00:{i:02} +0000 2012", i % 5)), ",");
}

#[test]
fn a_stray_quote_costs_its_row_and_no_other() {
    let read = |end: &str, stray: [&str; 2]| {
        let mut text = format!("user,item,title,time{end}");
        for i in 0..1000 {
            let title = if i % 300 == 100 { stray[(i / 300) % 2] } else { "Great" };
            text += &format!("u{},i{},{title},{}{end}", i % 30, i % 50, T + i as i64);
        }
        let log = Log::new("log.csv", text);
        (log.read().unwrap(), inspect(&log.path(), &log.config).unwrap().warnings.join("\n"))
    };
    for end in ["\n", "\r\n"] {
        for stray in [["\"Great Expectations", "7\" single"], ["\"Great", "\"Great"], ["\"Great\"s", "a"]] {
            let bad = stray.iter().filter(|s| s.starts_with('"')).count() as u64;
            // Rows 100, 400 and 700.
            let bad = if bad == 2 { 3 } else { 2 };
            let (log, warnings) = read(end, stray);
            assert_eq!((log.users.len(), classes(&log)), (1000 - bad as usize, vec![("unbalanced_quote", bad)]), "{stray:?}");
            assert_eq!((log.rejected.classes["unbalanced_quote"].first[0], log.spanning.records), (102, 0));
            assert!(!warnings.contains("span"), "{warnings}");
        }
        // Where the next quote ends a field, what lies between is a field by all rules, so there is a warning at least.
        let (log, warnings) = read(end, ["\"Great", "Foo\""]);
        assert_eq!((log.users.len(), log.spanning.records, log.spanning.lines, log.spanning.first), (699, 1, 301, Some(102)));
        assert!(warnings.contains("from line 102 on spans several lines (1 do, 301 lines in all)"), "{warnings}");
    }
    // Where many records have several lines they are meant.
    let lines: String = (0..50).map(|i| format!("u{i},\"two\nlines\",{}\n", T + i)).collect();
    let log = Log::new("log.csv", format!("user,item,time\n{lines}"));
    assert_eq!((log.read().unwrap().spanning.records, inspect(&log.path(), &log.config).unwrap().spanning.lines), (50, 100));
    assert!(!inspect(&log.path(), &log.config).unwrap().to_string().contains("spans"));
}

#[test]
fn inspection_tells_what_there_is_and_how_to_train_on_it() {
    let text = format!("user_id,item_id,ts\n007,a,{}\n7,b,{}\n7,b,{}\n7,B,{}\n8,a,oops\n", T + 5, T, T, T - 9);
    let log = Log::new("my log.csv", text);
    let seen = inspect(&log.path(), &Data::default()).unwrap();
    assert_eq!((seen.rows, seen.users, seen.items), (4, 2, 3));
    assert_eq!((seen.duplicates, seen.repeated_pairs), (1, 1));
    assert_eq!((seen.near_duplicates.users, seen.near_duplicates.items), (1, 1));
    assert_eq!(seen.near_duplicates.examples[0], ("007".to_string(), "7".to_string()));
    let times = seen.times.as_ref().unwrap();
    assert_eq!((times.ties, times.out_of_order, times.last.as_str()), (1, 1, "2011-03-13 07:06:45"));
    assert_eq!(seen.rejected.classes["bad_time"].first, [6]);
    assert_eq!(seen.line_ends.as_deref(), Some("LF"));
    assert!(seen.command.starts_with("hardneg train '") && seen.command.ends_with("my log.csv'"), "{}", seen.command);
    let shown = seen.to_string();
    for part in ["bad_time", "user_id", "2011-03-13", "hardneg train", "--set data.time_unit=s"] {
        assert!(shown.contains(part), "{part} is missing in\n{shown}");
    }
    assert_eq!(serde_json::to_value(&seen).unwrap()["layout"]["format"], "delimited");
}

#[test]
fn a_column_named_like_a_time_is_read_as_times_or_refused() {
    let with = |header: &str, times: &[&str]| {
        let rows: String = times.iter().enumerate().map(|(i, time)| format!("u{i},i{i},{time}\n")).collect();
        Log::new("log.csv", format!("user_id,item_id,{header}\n{rows}"))
    };
    for times in [
        ["07/26/2017 08:45:56", "10/18/2017 07:33:41"],
        ["26.07.2017 08:45", "18.10.2017 07:33"],
        ["2017-07-26 08:45 AM", "2017-10-18 07:33 AM"],
        ["26/Jul/2017:08:45:56 +0000", "18/Oct/2017:07:33:41 +0000"],
        ["2017-07-26 08:45:56 Europe/Berlin", "2017-10-18 07:33:41 Europe/Berlin"],
        ["morning", ""],
    ] {
        let log = with("timestamp", &times);
        assert_eq!(log.code(), Code::D0106, "{times:?}");
        let error = log.read().err().unwrap().to_string();
        assert!(error.contains(times[0]) && error.contains("data.time_col = \"none\""), "{error}");
        assert!(error.contains("data.time_col = NAME") && error.contains("1 `user_id`, 2 `item_id`, 3 `timestamp`"), "{error}");
        let log = log.with(|c| c.time_col = "none".into());
        assert!(log.read().unwrap().times.is_none());
    }
    // Nobody is misled by an empty column, one letter, one declared as context, or one beside real times.
    for (log, timed) in [
        (with("timestamp", &["", "NA"]), false),
        (with("t", &["morning", "noon"]), false),
        (with("time", &["morning", "noon"]).with(|c| c.context = vec!["time:cat".into()]), false),
        (with("date,timestamp", &["May 26,1500000000", "May 27,1500000001"]), true),
    ] {
        assert_eq!(log.read().unwrap().times.is_some(), timed);
    }
    let read = |times: &[&str]| with("timestamp", times).read().unwrap().times.unwrap();
    assert_eq!(read(&["2017-07-26 08:45:56 UTC", "2017-7-6 8:45"]), [1_501_058_756_000_000, 1_499_330_700_000_000]);
    assert_eq!(read(&["1985-11-17 06:59:16", "1986-01-01"]), [501_058_756_000_000, 504_921_600_000_000]);
    assert_eq!(read(&["1944-05-06", "1931-02-03"])[1], -1_227_916_800_000_000);
    // A log that begins before 1970 loses nothing, however many of its events are later.
    let old = ["1962-03-04", "1969-12-31", "1970-01-01", "1970-01-02", "1985-01-01", "2001-02-03", "2017-07-26"];
    let log = with("date", &old).read().unwrap();
    assert_eq!((log.times.as_ref().unwrap().len(), log.rejected.total()), (7, 0), "{:?}", classes(&log));
    let placeholders = with("date", &["2017-07-26", "2017-07-27", "2017-07-28", "9999-12-31", "0001-01-01", "1970-01-01"]);
    let read = placeholders.read().unwrap();
    assert_eq!(classes(&read), [("far_future_time", 1), ("negative_time", 1), ("zero_time", 1)]);
}

#[test]
fn times_that_cannot_be_read_do_not_close_a_look_at_the_file() {
    let log = Log::new("log.csv", "user_id,item_id,timestamp,when\nu1,i1,07/26/2017,1500000000\nu1,i2,07/27/2017,1500000001\n");
    let seen = inspect(&log.path(), &log.config).unwrap();
    assert_eq!((seen.rows, seen.times.is_none(), &seen.columns[2].role[..]), (2, true, "unused"));
    let warning = &seen.warnings[0];
    assert!(warning.contains("`timestamp` cannot be read as times") && warning.contains("`data.time_col`"), "{warning}");
    let time = seen.evidence.iter().find(|e| e.what == "time").unwrap();
    assert_eq!((&time.value[..], &time.because[..]), ("none", "a column is named like one and cannot be read"));
    // What is advised can be done: both the command and the other column.
    assert!(seen.command.contains("--set data.time_col=none"), "{}", seen.command);
    assert!(log.with(|c| c.time_col = "when".into()).read().unwrap().times.is_some());
}

/// A Parquet file of (user: string, item: optional int, time: timestamp in ms).
#[cfg(feature = "parquet")]
fn parquet_file(rows: &[(&str, Option<i64>, i64)]) -> Vec<u8> {
    use ::parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use ::parquet::file::writer::SerializedFileWriter;
    let schema =
        "message log { required binary user_id (UTF8); optional int64 item_id; required int64 when_seen (TIMESTAMP_MILLIS); }";
    let schema = std::sync::Arc::new(::parquet::schema::parser::parse_message_type(schema).unwrap());
    let mut bytes = vec![];
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Default::default()).unwrap();
    for half in rows.chunks(rows.len().div_ceil(2)) {
        let mut group = writer.next_row_group().unwrap();
        let users: Vec<ByteArray> = half.iter().map(|r| ByteArray::from(r.0)).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&users, None, None).unwrap();
        column.close().unwrap();
        let items: Vec<i64> = half.iter().filter_map(|r| r.1).collect();
        let levels: Vec<i16> = half.iter().map(|r| r.1.is_some() as i16).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&items, Some(&levels), None).unwrap();
        column.close().unwrap();
        let times: Vec<i64> = half.iter().map(|r| r.2).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&times, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

#[cfg(feature = "parquet")]
#[test]
fn parquet_rows_nulls_and_units() {
    let bytes = parquet_file(&[
        ("ann", Some(5), T * 1000),
        ("bob", None, T * 1000),
        ("ann", Some(-7), T * 1000 + 999),
        ("cy", Some(5), -3_000_000_000_000),
    ]);
    let log = Log::new("log.parquet", &bytes).with(|c| c.time_col = "when_seen".into());
    let layout = log.layout();
    assert_eq!((layout.format.as_str(), layout.time_rule.unwrap().unit), ("parquet", time::Unit::Ms));
    let read = log.read().unwrap();
    assert_eq!(rows(&read), vec![row("ann", "5", T), row("ann", "-7", T)]);
    assert_eq!(classes(&read), [("missing_field", 1), ("negative_time", 1)]);
    assert_eq!(read.rejected.classes["negative_time"].first, [4]);
    for cut in [4, bytes.len() / 2, bytes.len() - 5] {
        assert_eq!(Log::new("log.parquet", &bytes[..cut]).code(), Code::D0109);
    }
}

/// A Parquet file of (user: unsigned 64 bits, item: unsigned 32 bits, time: as `time` says).
#[cfg(feature = "parquet")]
fn parquet_numbers(time: &str, rows: &[(u64, u32, i64)]) -> Vec<u8> {
    use ::parquet::data_type::{Int32Type, Int64Type};
    use ::parquet::file::writer::SerializedFileWriter;
    let schema =
        format!("message log {{ required int64 user_id (UINT_64); required int32 item_id (UINT_32); required {time}; }}");
    let schema = std::sync::Arc::new(::parquet::schema::parser::parse_message_type(&schema).unwrap());
    let mut bytes = vec![];
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let columns: [Vec<i64>; 3] = [
        rows.iter().map(|r| r.0 as i64).collect(),
        rows.iter().map(|r| i64::from(r.1 as i32)).collect(),
        rows.iter().map(|r| r.2).collect(),
    ];
    for (values, short) in columns.iter().zip([false, true, time.starts_with("int32")]) {
        let mut column = group.next_column().unwrap().unwrap();
        if short {
            let values: Vec<i32> = values.iter().map(|&v| v as i32).collect();
            column.typed::<Int32Type>().write_batch(&values, None, None).unwrap();
        } else {
            column.typed::<Int64Type>().write_batch(values, None, None).unwrap();
        }
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

#[cfg(feature = "parquet")]
#[test]
fn a_parquet_schema_is_believed() {
    let read = |time: &str, times: [i64; 3]| {
        let rows = [(u64::MAX, u32::MAX, times[0]), (1 << 63, 1 << 31, times[1]), (7, 8, times[2])];
        let log = Log::new("log.parquet", parquet_numbers(time, &rows));
        let seen = inspect(&log.path(), &log.config).unwrap();
        assert!(seen.times.as_ref().unwrap().dated && !seen.to_string().contains("unknown origin"), "{seen}");
        (rows_of_three(&log), seen.layout.time_rule.unwrap().unit)
    };
    let ids = |at: [i64; 3]| {
        vec![
            row("18446744073709551615", "4294967295", at[0]),
            row("9223372036854775808", "2147483648", at[1]),
            row("7", "8", at[2]),
        ]
    };
    let at = [330_000_001, 400_000_000, 500_000_000];
    assert_eq!(read("int64 timestamp (TIMESTAMP_MILLIS)", at.map(|t| t * 1000)), (ids(at), time::Unit::Ms));
    assert_eq!(read("int64 timestamp (TIMESTAMP_MICROS)", at.map(|t| t * 1_000_000)), (ids(at), time::Unit::Us));
    for old in [[-800_000_000, -900_000_000, 500_000_000], [-800_000_000, 500_000_000, 1_500_000_000]] {
        assert_eq!(read("int64 time (TIMESTAMP_MILLIS)", old.map(|t| t * 1000)), (ids(old), time::Unit::Ms));
    }
    for days in [[17_000, 17_001, 4_000], [0, 1, 9_000], [0, 0, 0]] {
        assert_eq!(read("int32 date (DATE)", days), (ids(days.map(|d| d * 86_400)), time::Unit::Days));
    }
}

#[cfg(feature = "parquet")]
fn rows_of_three(log: &Log) -> Vec<(String, String, Option<i64>)> {
    let read = log.read().unwrap();
    assert_eq!(read.rejected.total(), 0, "{:?}", read.rejected);
    rows(&read)
}

#[cfg(feature = "parquet")]
#[test]
fn damaged_parquet_never_panics() {
    let rows: Vec<(&str, Option<i64>, i64)> =
        (0..50).map(|i| (["a", "b", "c"][i % 3], Some(i as i64), T * 1000 + i as i64)).collect();
    let bytes = parquet_file(&rows);
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x55;
        let log = Log::new("log.parquet", damaged);
        if let Err(error) = log.read() {
            assert_ne!(error.code(), Code::I7001, "byte {at}: {error}");
        }
    }
}

#[test]
fn a_file_of_rejected_rows_is_of_this_read_and_no_other_file_is_touched() {
    // Few bad rows among many: a column that is hardly ever a time would be refused.
    let good = format!("user,item,time\n{}", "1,2,1300000000\n".repeat(19));
    let log = Log::new("log.csv", format!("{good}3,4,soon\n"));
    let kept = log.folder.path().join("log.csv.rejected");
    for _ in ["new", "of an earlier read"] {
        assert_eq!(log.read().unwrap().rejected.quarantine, Some(kept.display().to_string()));
        assert_eq!(std::fs::read(&kept).unwrap(), b"21\tbad_time\t3,4,soon\n");
    }
    std::fs::write(log.path(), &good).unwrap();
    assert_eq!(log.read().unwrap().rejected.total(), 0);
    assert!(!kept.exists(), "what was mended is no longer rejected");
    std::fs::write(&kept, "my own notes\n").unwrap();
    assert_eq!(log.read().unwrap().rejected.total(), 0);
    std::fs::write(log.path(), format!("{good}3,4,soon\n")).unwrap();
    assert_eq!(log.code(), Code::F0801);
    assert_eq!(std::fs::read(&kept).unwrap(), b"my own notes\n");
    assert!(log.with(|c| c.on_bad_row = "skip".into()).read().is_ok());
}

/// Text made of the pieces that matter to the readers.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => Just(b"\n".to_vec()),
        2 => Just(b",".to_vec()),
        2 => Just(b"\t".to_vec()),
        2 => Just(b" ".to_vec()),
        1 => Just(b"::".to_vec()),
        1 => Just(b"\"".to_vec()),
        1 => Just(b"\r\n".to_vec()),
        3 => Just(b"17".to_vec()),
        2 => Just(b"1300000000".to_vec()),
        1 => Just(b"{\"user\":1,\"item\":2}".to_vec()),
        1 => Just(b"user_id:token\titem_id:token\n".to_vec()),
        1 => Just(b"user,item,time\n".to_vec()),
        1 => Just(b"2020-01-01".to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(piece, 0..120).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop_oneof![pieces(), prop::collection::vec(any::<u8>(), 0..400)], reader in 0..=READERS.len()) {
        let format = READERS.get(reader).map_or("auto", |r| r.name);
        let log = Log::new("ratings_item.data", &bytes).with(|c| c.format = format.into());
        std::fs::write(log.folder.path().join("ratings_time.data"), &bytes[..bytes.len() / 2]).unwrap();
        for result in [log.read().map(|_| ()), inspect(&log.path(), &log.config).map(|_| ()), read_attributes(&log.path(), &log.config).map(|_| ()), read_graph(&log.path(), Some(&log.path()), &log.config).map(|_| ())] {
            if let Err(error) = result {
                prop_assert_ne!(error.code(), Code::I7001);
            }
        }
    }

    #[test]
    fn any_csv_reads_the_same_in_any_blocks(bytes in pieces(), size in 1usize..50) {
        let mut text = b"user,item\n1,2\n3,4\n5,6\n7,8\n9,1\n".to_vec();
        text.extend(&bytes);
        let log = Log::new("log.csv", &text).with(|c| { c.format = "csv".into(); c.header = "yes".into(); });
        if detect(&log.path(), &log.config).is_ok() {
            let (one, two) = (read_in_blocks(&log, compress::BLOCK), read_in_blocks(&log, size));
            prop_assert_eq!(rows(&one), rows(&two));
            prop_assert_eq!(format!("{:?}", one.rejected), format!("{:?}", two.rejected));
            prop_assert_eq!(one.spanning, two.spanning);
        }
    }
}
