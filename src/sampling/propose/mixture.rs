//! A mixture of proposals: one word picks the component, the rest draw from it.
//!
//! ```text
//! Q(i) = sum_c share_c q_c(i)
//! ```
//!
//! The log-probability a mixture reports is that of the mixture, whichever component drew the item; exclusion conditions the
//! mixture as a whole (a rejected draw picks its component anew), so `Q(i) / (1 - Q(excluded))` is exact. Shares may follow a
//! curve. Source: mixed negative sampling (Yang et al., WWW 2020).

use super::{Place, Propose};
use crate::ops::propose::Mixed;

/// A mixture at one moment of training.
pub struct Mixture<'a> {
    parts: Vec<&'a dyn Propose>,
    /// (parts) exact probability of each component.
    shares: Vec<f64>,
    /// (parts) exclusive upper bound of each component's words, the last left out.
    bounds: Vec<u64>,
}

impl<'a> Mixture<'a> {
    /// `shares` are not negative and not all zero.
    pub fn new(parts: Vec<&'a dyn Propose>, shares: &[f64]) -> Mixture<'a> {
        let total: f64 = shares.iter().sum();
        let mut reached = 0.0;
        let mut bounds = Vec::new();
        for share in shares {
            reached += share / total;
            bounds.push((reached * 2f64.powi(64)) as u64);
        }
        // What follows the last component with a share rounds to the end.
        let last = shares.iter().rposition(|&s| s > 0.0).unwrap_or(0);
        let exact = |c: usize| {
            let low = if c == 0 { 0.0 } else { bounds[c - 1] as f64 };
            if c < last { (bounds[c] as f64 - low) / 2f64.powi(64) } else { 1.0 - low / 2f64.powi(64) }
        };
        let shares = (0..shares.len()).map(|c| if c > last { 0.0 } else { exact(c) }).collect();
        bounds.truncate(last);
        Mixture { parts, shares, bounds }
    }
}

impl Mixture<'_> {
    /// What a machine is told of it besides its parts.
    pub fn mixed(&self) -> Mixed<'_> {
        Mixed { bounds: &self.bounds, shares: &self.shares }
    }
}

impl Propose for Mixture<'_> {
    fn words(&self) -> usize {
        1 + self.parts.iter().map(|p| p.words()).max().unwrap_or(0)
    }
    fn draw(&self, place: &Place, words: &[u64]) -> u32 {
        let component = self.bounds.iter().take_while(|&&bound| words[0] >= bound).count();
        self.parts[component].draw(place, &words[1..])
    }
    fn prob(&self, place: &Place, item: u32) -> f64 {
        self.parts.iter().zip(&self.shares).map(|(p, s)| s * p.prob(place, item)).sum()
    }
    fn prob_many(&self, place: &Place, items: &[u32], probs: &mut [f64]) {
        probs.fill(0.0);
        let mut of_part = vec![0.0; items.len()];
        for (part, share) in self.parts.iter().zip(&self.shares).filter(|(_, share)| **share > 0.0) {
            part.prob_many(place, items, &mut of_part);
            probs.iter_mut().zip(&of_part).for_each(|(prob, of_part)| *prob += share * of_part);
        }
    }
    fn remaining(&self, place: &Place, excluded: &[u32]) -> f64 {
        self.parts.iter().zip(&self.shares).map(|(p, s)| s * p.remaining(place, excluded)).sum()
    }
    fn needs_batch(&self) -> bool {
        self.parts.iter().any(|p| p.needs_batch())
    }
    fn visits(&self, user: u32) -> Option<Vec<(u32, f64)>> {
        let shared = self.parts.iter().zip(&self.shares).filter(|(_, share)| **share > 0.0);
        shared.map(|(part, _)| part).find_map(|part| part.visits(user))
    }
    fn needs_target(&self) -> bool {
        self.parts.iter().any(|p| p.needs_target())
    }
    fn needs_event(&self) -> bool {
        self.parts.iter().any(|p| p.needs_event())
    }
    fn may_run_dry(&self) -> bool {
        self.parts.iter().zip(&self.shares).all(|(p, &s)| s == 0.0 || p.may_run_dry())
    }
    fn clusters(&self) -> usize {
        self.parts.iter().map(|p| p.clusters()).max().unwrap_or(0)
    }
}
