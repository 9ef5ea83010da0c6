//! Every public log that is at hand is read without any configuration, and its published counts come out.

use std::path::PathBuf;

use hardneg::config::Data;
use hardneg::data::raw::RawLog;
use hardneg::data::read::{detect, inspect, read, read_attributes, side_file};

/// A file of the shared data, if it is there; says so when it is not.
fn shared(name: &str) -> Option<PathBuf> {
    let folders = [
        std::env::var_os("HARDNEG_DATA").map(PathBuf::from),
        Some(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data")),
    ];
    let found = folders.into_iter().flatten().map(|f| f.join(name)).find(|p| p.is_file());
    if found.is_none() {
        println!("skipped: {name} is not in ../shared/data nor in HARDNEG_DATA");
    }
    found
}

/// Reads a file with defaults and checks (format, rows, users, items, first and last second).
fn check(name: &str, format: &str, counts: (usize, usize, usize), range: Option<(i64, i64)>) -> Option<RawLog> {
    let path = shared(name)?;
    let config = Data { path: path.display().to_string(), ..Data::default() };
    let found = detect(&path, &config).unwrap();
    assert_eq!(found.layout.format, format, "{name}: {:#?}", found.evidence);
    let log = read(&config, None, &mut |_| {}).unwrap();
    assert_eq!((log.users.len(), log.user_ids.len(), log.item_ids.len()), counts, "{name}: {:#?}", found);
    assert_eq!(log.rejected.total(), 0, "{name}");
    assert_eq!(log.items.len(), counts.0);
    let seconds = log.times.as_ref().map(|t| (t.iter().min().unwrap() / 1_000_000, t.iter().max().unwrap() / 1_000_000));
    assert_eq!(seconds, range, "{name}");
    Some(log)
}

#[test]
fn amazon_beauty_as_a_table_and_as_ragged_lines_is_the_same_log() {
    let range = Some((1_023_840_000, 1_406_073_600));
    let counts = (198_502, 22_363, 12_101);
    let table = check("amazon-beauty/beauty.tsv.gz", "delimited", counts, range);
    let lines = check("amazon-beauty/Beauty_item_org_rank.txt.gz", "s3rec", counts, range);
    if let (Some(table), Some(lines)) = (table, lines) {
        assert_eq!(table.users, lines.users);
        assert_eq!(table.items, lines.items);
        assert_eq!(table.times, lines.times);
        assert!(table.item_ids.get(7) == lines.item_ids.get(7));
    }
}

#[test]
fn movielens_1m_with_ratings() {
    if let Some(log) = check("ml-1m/ratings_ge4.dat.gz", "delimited", (575_281, 6_038, 3_533), Some((956_703_932, 1_046_454_590)))
    {
        let weights = log.weights.unwrap();
        assert_eq!(weights.iter().filter(|&&w| w == 4.0).count(), 348_971);
        assert_eq!(weights.iter().filter(|&&w| w == 5.0).count(), 226_310);
    }
}

#[test]
fn movielens_1m_of_sasrec_has_no_times() {
    check("ml-1m/ml-1m_sas.txt.gz", "sasrec", (999_611, 6_040, 3_416), None);
}

#[test]
fn movielens_100k_original_and_recbole_are_the_same_log() {
    let (counts, range) = ((100_000, 943, 1_682), Some((874_724_710, 893_286_638)));
    let original = check("ml-100k/u.data", "delimited", counts, range);
    let recbole = check("ml-100k-kg/ml-100k.inter.gz", "recbole", counts, range);
    if let (Some(original), Some(recbole)) = (original, recbole) {
        assert_eq!(original.users, recbole.users);
        assert_eq!(original.items, recbole.items);
        assert_eq!(original.times, recbole.times);
        assert_eq!(original.weights, recbole.weights);
    }
}

#[test]
fn foursquare_counts_minutes() {
    check("foursquare-nyc/checkins.tsv.gz", "delimited", (147_938, 1_083, 5_135), Some((60, 458_435 * 60)));
}

#[test]
fn inspection_finds_the_published_ties_and_duplicates() {
    if let Some(path) = shared("amazon-beauty/beauty.tsv.gz") {
        let seen = inspect(&path, &Data::default()).unwrap();
        let times = seen.times.unwrap();
        assert_eq!((times.ties, times.out_of_order, seen.repeated_pairs), (77_402, 0, 0));
        assert_eq!((times.first.as_str(), times.last.as_str()), ("2002-06-12 00:00:00", "2014-07-23 00:00:00"));
    }
    if let Some(path) = shared("foursquare-nyc/checkins.tsv.gz") {
        let seen = inspect(&path, &Data::default()).unwrap();
        assert_eq!(seen.duplicates, 458);
        assert!(!seen.times.unwrap().dated);
    }
    if let Some(path) = shared("amazon-beauty/Beauty_time_org_rank.txt.gz") {
        assert_eq!(inspect(&path, &Data::default()).unwrap_err().code().name(), "D0111");
    }
    if let Some(path) = shared("foursquare-nyc/NYC.npy") {
        assert_eq!(inspect(&path, &Data::default()).unwrap_err().code().name(), "D0110");
    }
}

#[test]
fn side_files_give_the_published_genres() {
    for (log, items, genres) in
        [("ml-1m/ratings_ge4.dat.gz", 3_883, 18), ("ml-100k/u.data", 1_682, 19), ("ml-100k-kg/ml-100k.inter.gz", 1_682, 19)]
    {
        let Some(path) = shared(log) else { continue };
        let side = side_file(&path).unwrap_or_else(|| panic!("{log} has a side file"));
        let found = read_attributes(&side, &Data::default()).unwrap();
        let years = (0..found.names.len() as u32).filter(|&n| found.names.get(n).starts_with(b"release")).count();
        assert_eq!(found.items.len(), items, "{log}");
        assert_eq!(found.names.len() - years, genres, "{log}");
        assert_eq!(found.offsets.len(), items + 1);
        assert_eq!(*found.offsets.last().unwrap() as usize, found.codes.len());
        // Every movie has a genre.
        assert!(found.codes.len() >= items, "{log}");
    }
}
