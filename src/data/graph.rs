//! From triples to the entities around each item.
//!
//! A triple (head, relation, tail) joins two nodes. Which relation joins them and which is the head makes no difference here,
//! nor do several triples between the same two nodes: they are neighbours, once. An item *is* a node: the one it is linked to,
//! or without links the one of its name. The *entities* of an item are the neighbours of its node, other items among them, its
//! own node not. So two hops lead from an item to an entity to the items around that entity, and two items joined by a triple
//! are each an entity of the other: one hop, which leads on to what else is around it.

use super::raw::Ids;
use crate::ids::NONE;

/// A knowledge graph as its files give it. Nodes that are no item of the log are the rule, and so are items that are no node.
#[derive(Default)]
pub struct RawGraph {
    pub nodes: Ids,
    /// Head and tail of each triple, as codes of `nodes`.
    pub triples: Vec<[u32; 2]>,
    /// The node of each linked item, as code of `nodes` ([`NONE`]: no triple has it); absent: an item is the node of its name.
    pub links: Option<(Ids, Vec<u32>)>,
    /// Rows of both files that could not be used.
    pub bad: u64,
}

/// The entities of items: item `i` has `entities[offsets[i] .. offsets[i+1]]`, ascending and distinct.
pub struct Around {
    /// (items+1)
    pub offsets: Vec<u64>,
    /// Numbers of the entities, which are 0, 1, 2 ...
    pub entities: Vec<u32>,
    /// Entity -> code in `RawGraph::nodes`, ascending: only what some item has is an entity.
    pub nodes: Vec<u32>,
}

impl RawGraph {
    /// The node of the item of this name.
    fn node(&self, item: &[u8]) -> Option<u32> {
        match &self.links {
            None => self.nodes.find(item),
            Some((items, nodes)) => items.find(item).map(|i| nodes[i as usize]).filter(|&node| node != NONE),
        }
    }
    /// Whether the item of this name is a node.
    pub fn has(&self, item: &[u8]) -> bool {
        self.node(item).is_some()
    }
    /// The entities of `items`, given by name.
    pub fn around<'a>(&self, items: impl Iterator<Item = &'a [u8]>) -> Around {
        let own: Vec<Option<u32>> = items.map(|item| self.node(item)).collect();
        let mut wanted = vec![false; self.nodes.len()];
        own.iter().flatten().for_each(|&node| wanted[node as usize] = true);
        let both = self.triples.iter().flat_map(|&[head, tail]| [[head, tail], [tail, head]]);
        let mut edges: Vec<[u32; 2]> = both.filter(|[from, to]| from != to && wanted[*from as usize]).collect();
        edges.sort_unstable();
        edges.dedup();
        let mut reached = vec![NONE; self.nodes.len()];
        edges.iter().for_each(|edge| reached[edge[1] as usize] = 0);
        let nodes: Vec<u32> = (0..reached.len() as u32).filter(|&node| reached[node as usize] != NONE).collect();
        (0..).zip(&nodes).for_each(|(entity, &node)| reached[node as usize] = entity);
        let (mut offsets, mut entities) = (vec![0], Vec::with_capacity(edges.len()));
        for node in own {
            if let Some(node) = node {
                let from = edges.partition_point(|edge| edge[0] < node);
                let own = edges[from..].iter().take_while(|edge| edge[0] == node);
                entities.extend(own.map(|edge| reached[edge[1] as usize]));
            }
            offsets.push(entities.len() as u64);
        }
        Around { offsets, entities, nodes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(triples: &[(&str, &str)], links: Option<&[(&str, &str)]>) -> RawGraph {
        let mut graph = RawGraph::default();
        for (head, tail) in triples {
            let triple = [head, tail].map(|node| graph.nodes.intern(node.as_bytes()));
            graph.triples.push(triple);
        }
        graph.links = links.map(|links| {
            let mut items = Ids::new();
            let nodes = links.iter().map(|(item, node)| {
                items.intern(item.as_bytes());
                graph.nodes.find(node.as_bytes()).unwrap_or(NONE)
            });
            let nodes = nodes.collect();
            (items, nodes)
        });
        graph
    }
    /// Names of the entities of each item.
    fn around(graph: &RawGraph, items: &[&str]) -> Vec<Vec<String>> {
        let found = graph.around(items.iter().map(|i| i.as_bytes()));
        let name = |&e: &u32| String::from_utf8(graph.nodes.get(found.nodes[e as usize]).to_vec()).unwrap();
        let range = |w: &[u64]| found.entities[w[0] as usize..w[1] as usize].iter().map(name).collect();
        found.offsets.windows(2).map(range).collect()
    }

    #[test]
    fn entities_are_the_distinct_neighbours_in_either_direction() {
        let triples = [("x", "a"), ("a", "x"), ("b", "x"), ("y", "a"), ("x", "y"), ("x", "x"), ("b", "far"), ("x", "a")];
        let found = around(&graph(&triples, None), &["x", "absent", "y", "far"]);
        assert_eq!(found, [vec!["a", "b", "y"], vec![], vec!["x", "a"], vec!["b"]], "in the order in which nodes appeared");
    }

    #[test]
    fn links_say_which_node_an_item_is() {
        let links = [("1", "x"), ("2", "y"), ("3", "nowhere"), ("4", "x")];
        let graph = graph(&[("x", "a"), ("a", "y"), ("2", "b")], Some(&links));
        assert_eq!(around(&graph, &["2", "1", "3", "4", "5"]), [vec!["a"], vec!["a"], vec![], vec!["a"], vec![]]);
        assert_eq!(graph.around(["3"].iter().map(|i| i.as_bytes())).nodes, [0; 0]);
    }
}
