//! The most popular items for everybody: the least a recommender has to beat.

use crate::data::batch::Batch;
use crate::error::Result;
use crate::eval::Ranker;

/// Scores an item by its training events. Counts above 2^24 lose their last digits to f32, which can only tie the very
/// top of an enormous log.
pub struct Popularity {
    /// (V)
    scores: Vec<f32>,
}

impl Popularity {
    pub fn new(train_counts: &[u32]) -> Popularity {
        Popularity { scores: train_counts.iter().map(|&c| c as f32).collect() }
    }
}

impl Ranker for Popularity {
    fn items(&self) -> usize {
        self.scores.len()
    }
    fn score(&mut self, requests: &Batch, out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        for _ in 0..requests.sequences() {
            out.extend_from_slice(&self.scores);
        }
        Ok(())
    }
    fn name(&self) -> &str {
        "popularity"
    }
}
