//! A knowledge graph beside a log: RecBole's `.kg` and `.link`, or any delimited file of three columns head, relation, tail.
//!
//! A link file says which node an item is (RecBole's `item_id`, `entity_id`; else the first two columns). Without one a head
//! or tail that is an item's id is that item. `data/graph.rs` says what becomes of the triples.

use std::path::Path;

use crate::config::Data;
use crate::data::graph::RawGraph;
use crate::data::raw::Ids;
use crate::error::{Code, Error, Result};
use crate::ids::{LIMIT, NONE};

use super::roles;
use super::side::{Table, each_row};
use super::sniff::Sample;

/// Names of the columns in RecBole's files and usual ones elsewhere, compared without case and punctuation.
const HEAD: [&str; 4] = ["headid", "head", "subject", "h"];
const TAIL: [&str; 4] = ["tailid", "tail", "object", "t"];
const NODE: [&str; 4] = ["entityid", "entity", "nodeid", "node"];

/// Reads the triples of `triples` and, if given, the links from items to nodes of `links`. Each plain or compressed with gzip
/// or zstd. An item that is linked twice keeps its first link.
///
/// Errors: D0101 to D0110 as for logs; D0103 where a file has not these columns; D0106 where too many rows lack a head, tail, item or node.
pub fn read_graph(triples: &Path, links: Option<&Path>, config: &Data) -> Result<RawGraph> {
    let mut graph = RawGraph::default();
    let sample = Sample::take(triples, config)?;
    let (table, head, tail) = pair(&sample, [&HEAD, &TAIL], 3, "triples", "three columns: head, relation, tail")?;
    let help = "check that the file holds triples, or unset `data.graph_path`";
    graph.bad = each_row(triples, &sample, &table, config, help, |field| {
        let (head, tail) = (field(head), field(tail));
        // The limit is told of below.
        let usable = !head.is_empty() && !tail.is_empty() && graph.nodes.len() < LIMIT - 1;
        if usable {
            graph.triples.push([&head, &tail].map(|node| graph.nodes.intern(node)));
        }
        usable
    })?;
    if graph.nodes.len() >= LIMIT - 1 {
        return Err(Error::new(Code::D0112, format!("{} has more nodes than can be numbered", triples.display()))
            .help("drop nodes that few items have"));
    }
    if let Some(links) = links {
        let sample = Sample::take(links, config)?;
        let (table, item, node) = pair(&sample, [roles::ITEM, &NODE], 2, "links", "two columns: item, node of the graph")?;
        let (mut items, mut nodes) = (Ids::new(), vec![]);
        let help = "check that the file holds an item and its node in each row, or unset `data.link_path`";
        graph.bad += each_row(links, &sample, &table, config, help, |field| {
            let (item, node) = (field(item), field(node));
            let usable = !item.is_empty() && !node.is_empty();
            if usable && items.find(&item).is_none() {
                items.intern(&item);
                nodes.push(graph.nodes.find(&node).unwrap_or(NONE));
            }
            usable
        })?;
        graph.links = Some((items, nodes));
    }
    Ok(graph)
}

/// A table and its two columns of these names; without such names the first and last of exactly `width`.
fn pair(sample: &Sample, names: [&[&str]; 2], width: usize, what: &str, expected: &str) -> Result<(Table, usize, usize)> {
    let named = |name: &str, names: &[&str]| names.contains(&roles::plain(name).as_str());
    let titles = |row: &[Vec<u8>]| {
        let holds = |names: &[&str]| row.iter().any(|field| named(&String::from_utf8_lossy(field), names));
        holds(names[0]) && holds(names[1])
    };
    let path = sample.path.display();
    let refuse = |found: String| {
        Err(Error::new(Code::D0103, format!("{path} is no table of {what}")).note(found).help(format!("give {expected}")))
    };
    let Some(table) = Table::of(sample, titles)? else { return refuse("no separator of columns is recognised".into()) };
    let [first, second] = names.map(|names| table.names.iter().position(|name| named(name, names)));
    match (first, second) {
        (Some(first), Some(second)) if table.form.header => Ok((table, first, second)),
        _ if table.names.len() == width => Ok((table, 0, width - 1)),
        _ => {
            let columns = table.columns(sample);
            refuse(format!("found: {}", roles::listed(&columns)))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(triples: &[u8], links: Option<&[u8]>) -> Result<RawGraph> {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let links = links.map(|links| path("x.link", links));
        read_graph(&path("x.kg", triples), links.as_deref(), &Data::default())
    }
    fn triples(graph: &RawGraph) -> Vec<String> {
        let name = |node| String::from_utf8_lossy(graph.nodes.get(node)).into_owned();
        graph.triples.iter().map(|t| t.map(name).join(" ")).collect()
    }

    const KG: &[u8] = b"head_id:token\trelation_id:token\ttail_id:token\nm.1\tfilm.actor\tm.7\nm.8\tactor.film\tm.2\n";
    const LINK: &[u8] = b"item_id:token\tentity_id:token\n11\tm.1\n12\tm.2\n11\tm.2\n13\tm.99\nelsewhere\tm.8\n";

    #[test]
    fn recbole_files_plain_and_compressed() {
        let graph = read(KG, Some(LINK)).unwrap();
        assert_eq!(triples(&graph), ["m.1 m.7", "m.8 m.2"]);
        let (items, nodes) = graph.links.as_ref().unwrap();
        let node = |item: &str| nodes[items.find(item.as_bytes()).unwrap() as usize];
        assert_eq!((node("11"), node("12"), node("13"), node("elsewhere"), items.len()), (0, 3, NONE, 2, 4));
        let packed = |bytes: &[u8]| {
            let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
            gzip.write_all(bytes).unwrap();
            gzip.finish().unwrap()
        };
        let again = read(&packed(KG), Some(&zstd::encode_all(LINK, 1).unwrap())).unwrap();
        assert_eq!((triples(&again), &again.links.unwrap().1), (triples(&graph), nodes));
        assert_eq!(read(&packed(KG)[..40], None).err().map(|e| e.code()), Some(Code::D0105));
    }

    #[test]
    fn tables_of_three_columns_with_and_without_a_header() {
        for text in ["a,r,b\nc,\"r,s\",d\n", "head,relation,tail\na,r,b\nc,s,d\n", "tail;kind;note;head\nb;r;x;a\nd;s;y;c\n"] {
            let graph = read(text.as_bytes(), None).unwrap();
            assert_eq!((triples(&graph), graph.links.is_none()), (vec!["a b".to_string(), "c d".into()], true), "{text}");
        }
        assert_eq!(triples(&read(b"0 3 17\n0 4 18\n", None).unwrap()), ["0 17", "0 18"]);
        let graph = read(b"a,r,b\n", Some(b"1,b\n2,a\n")).unwrap();
        assert_eq!(graph.links.unwrap().1, [1, 0]);
    }

    #[test]
    fn rows_without_a_head_or_tail_are_counted_and_many_of_them_refused() {
        let good = "a\tr\tb\n".repeat(9);
        let graph = read(format!("{good}a\tr\t\na\tr\n").as_bytes(), Some(b"1\ta\n2\tb\n3\ta\n4\tb\n\tb\n")).unwrap();
        assert_eq!((graph.triples.len(), graph.bad), (9, 3));
        let code = |text: &[u8], links: Option<&[u8]>| read(text, links).err().map(|e| e.code());
        let half = "a\tr\tb\na\tr\t\n".repeat(5);
        assert_eq!(code(half.as_bytes(), None), Some(Code::D0106));
        assert_eq!(code(KG, Some(b"item_id:token\tentity_id:token\n1\t\n\tm.1\n")), Some(Code::D0106));
    }

    #[test]
    fn what_is_no_graph_is_a_typed_error() {
        let code = |text: &[u8], links: Option<&[u8]>| read(text, links).err().map(|e| e.code());
        assert_eq!(code(b"", None), Some(Code::D0102));
        assert_eq!(code(b"head_id:token\trelation_id:token\ttail_id:token\n", None), Some(Code::D0102));
        assert_eq!(code(b"one\ntwo\nthree\n", None), Some(Code::D0103));
        assert_eq!(code(b"a,b\nc,d\n", None), Some(Code::D0103));
        assert_eq!(code(b"a,b,c,d\ne,f,g,h\n", None), Some(Code::D0103));
        assert_eq!(code(KG, Some(b"1,2,3\n4,5,6\n")), Some(Code::D0103));
        let absent = read_graph(Path::new("no/such.kg"), None, &Data::default());
        assert_eq!(absent.err().map(|e| e.code()), Some(Code::D0101));
    }
}
