//! Whether a machine's steps are faster as graphs or call by call, found out on steps it has to do anyway.
//!
//! ```text
//! steps    8 call by call, 8 as graphs, 8 call by call ...        a mark behind each
//! time     from the end of a step to the end of the next: what the machine needs, or the host if that is longer. Left out are the first
//!          step of a row, when the machine may still be at one of the other way, steps in which somebody waited for the machine, and
//!          the first two rows of graphs, which record what later ones replay
//! end      as soon as 16 of each are timed and somebody waits for the machine anyway; or when no step can be a graph; or after 1,024
//! ```
//!
//! A step of a row of graphs counts whatever became of it: one that is like no other is held back to its end and given call by call, and
//! would be after the trial. Of each way the fastest three quarters are averaged, so that what else the machine does is no part of it.
//! Neither way changes a bit of what is computed, so the clock may choose.
//!
//! Price: a mark a step until the end, and half of the steps until then by the slower way.

use crate::device::Mark;
use crate::error::Result;

/// How a step goes to a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Calls,
    Graphs,
}

/// Steps in a row that go the same way, rows that record, times of each way that are enough, and steps after which there is no use in more.
const ROW: usize = 8;
const RECORDING: usize = 2;
const ENOUGH: usize = 16;
const MOST: usize = 1024;

/// The steps so far.
#[derive(Default)]
pub struct Trial {
    /// How each went, if its time says something, and the mark behind it.
    ends: Vec<(Option<Way>, Mark)>,
}

/// Which way step number `step` goes, and how many rows went the same way before.
fn row(step: usize) -> (Way, usize) {
    let row = step / ROW;
    (if row.is_multiple_of(2) { Way::Calls } else { Way::Graphs }, row / 2)
}

impl Trial {
    /// Step after step; `counts`: its time says something.
    pub fn ended(&mut self, counts: bool, mark: Mark) {
        self.ends.push((counts.then_some(self.next()), mark));
    }
    /// How the next step goes.
    pub fn next(&self) -> Way {
        row(self.ends.len()).0
    }
    /// The marks before and behind steps that count.
    fn spans(&self, way: Way) -> impl Iterator<Item = [&Mark; 2]> {
        let counts = move |(before, pair): &(usize, &[(Option<Way>, Mark)])| {
            let step = before + 1;
            let recorded = way == Way::Calls || row(step).1 >= RECORDING;
            pair[1].0 == Some(way) && recorded && !step.is_multiple_of(ROW)
        };
        self.ends.windows(2).enumerate().filter(counts).map(|(_, pair)| [&pair[0].1, &pair[1].1])
    }
    fn is_enough(&self) -> bool {
        [Way::Calls, Way::Graphs].into_iter().all(|way| self.spans(way).count() >= ENOUGH)
    }
    pub fn is_over(&self) -> bool {
        let rows = self.ends.len() / ROW;
        let none = rows >= 2 * (RECORDING + 2) && self.ends.iter().all(|(way, _)| *way != Some(Way::Graphs));
        self.ends.len() >= MOST || none || self.is_enough()
    }
    /// Mean seconds of the fastest three quarters of the steps, call by call and as graphs, given those between two marks; None if too
    /// few count.
    pub fn seconds(&self, elapsed: impl Fn(&Mark, &Mark) -> Result<f64>) -> Result<Option<[f64; 2]>> {
        if !self.is_enough() {
            return Ok(None);
        }
        let mean = |way| -> Result<f64> {
            let mut times = self.spans(way).map(|[from, to]| elapsed(from, to)).collect::<Result<Vec<f64>>>()?;
            times.sort_by(f64::total_cmp);
            let fastest = &times[..times.len() * 3 / 4];
            Ok(fastest.iter().sum::<f64>() / fastest.len() as f64)
        };
        Ok(Some([mean(Way::Calls)?, mean(Way::Graphs)?]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps that take so long call by call, replayed, and held back because they are not `alike`; every `late`-th takes a hundred times
    /// as long. Gives the steps until the trial is over, and what it says.
    fn tried(seconds: [f64; 3], alike: impl Fn(usize) -> bool, late: usize) -> (usize, Option<[f64; 2]>) {
        let (mut trial, mut now) = (Trial::default(), 0.0);
        let mut steps = 0;
        while !trial.is_over() {
            let once = match trial.next() {
                Way::Calls => seconds[0],
                Way::Graphs if alike(steps) => seconds[1],
                Way::Graphs => seconds[2],
            };
            now += if steps % late == 0 { 100.0 * once } else { once };
            trial.ended(true, Mark(Box::new(now)));
            steps += 1;
        }
        let time = |mark: &Mark| *mark.0.downcast_ref::<f64>().unwrap();
        (steps, trial.seconds(|from, to| Ok(time(to) - time(from))).unwrap())
    }

    #[test]
    fn both_ways_are_timed_among_late_steps() {
        for seconds in [[2.0, 1.0, 9.0], [1.0, 3.0, 9.0]] {
            let (steps, found) = tried(seconds, |_| true, 9);
            let found = found.unwrap();
            assert!(steps <= 10 * ROW && (0..2).all(|i| (found[i] - seconds[i]).abs() < 1e-9), "{steps} steps, {found:?}");
        }
    }

    /// Graphs would be faster if steps were alike, and most are not, or nearly half.
    #[test]
    fn steps_that_are_held_back_count_against_graphs() {
        for unlike in [7, 4] {
            let [calls, graphs] = tried([1.0, 0.9, 1.6], |step| step % 10 >= unlike, 997).1.unwrap();
            assert!(calls < graphs, "{unlike} of 10: {calls} against {graphs}");
        }
        let [calls, graphs] = tried([1.0, 0.9, 1.6], |step| step % 10 > 0, 997).1.unwrap();
        assert!(graphs < calls, "{calls} against {graphs}");
    }

    #[test]
    fn a_trial_without_graphs_or_times_ends() {
        let ends = |counts: fn(Way) -> bool| {
            let mut trial = Trial::default();
            while !trial.is_over() {
                trial.ended(counts(trial.next()), Mark(Box::new(())));
            }
            (trial.ends.len(), trial.seconds(|_, _| Ok(1.0)).unwrap())
        };
        assert_eq!(ends(|way| way == Way::Calls), (8 * ROW, None));
        assert_eq!(ends(|way| way == Way::Graphs), (MOST, None));
    }
}
