//! Samplers with one fault each, of the kinds found in public code, and the statistics that must see it.

use super::*;
use crate::ops::exclusion::Exclude;
use crate::rng::below;
use crate::sampling::alias::Alias;
use crate::sampling::knowledge::Catalogue;
use crate::sampling::propose::{Place, Rules};

const ITEMS: usize = 61;

type Draw = Box<dyn Fn(&[u64]) -> u32 + Send + Sync>;
type Prob = Box<dyn Fn(u32) -> f64 + Send + Sync>;
type Remaining = Box<dyn Fn(&[u32]) -> f64 + Send + Sync>;

/// A law made of closures, so that each part can be wrong by itself.
struct Law {
    draw: Draw,
    prob: Prob,
    remaining: Remaining,
}

impl Propose for Law {
    fn words(&self) -> usize {
        2
    }
    fn draw(&self, _: &Place, words: &[u64]) -> u32 {
        (self.draw)(words)
    }
    fn prob(&self, _: &Place, item: u32) -> f64 {
        (self.prob)(item)
    }
    fn remaining(&self, _: &Place, excluded: &[u32]) -> f64 {
        (self.remaining)(excluded)
    }
}

/// 96,000 draws of `proposal`, excluding what `exclude` says of the target 1 and the seen 0, 5, 9.
fn draws(proposal: &dyn Propose, exclude: Exclude, distinct: bool) -> Negatives {
    let catalogue = Catalogue::new(&[1; ITEMS]);
    let rules = Rules {
        catalogue: &catalogue,
        scope: Scope::Position,
        exclude,
        distinct,
        log_q: true,
        n: 32,
        seed: 8,
        epoch_index: 0,
        batch_index: 0,
    };
    propose::propose(proposal, &rules, &batch(10, 300, 1, 0, &[0, 5, 9])).unwrap()
}

fn steep_weights(alpha: f64) -> Vec<f64> {
    (0..ITEMS).map(|i| (1.0 + 600.0 / (1.0 + i as f64)).powf(alpha)).collect()
}

/// The sound law of `weights`, from which the mutants below depart in one closure each.
fn sound(weights: &[f64]) -> Law {
    let alias = Arc::new(Alias::new(weights.to_vec()).unwrap());
    let (of_draw, of_prob, of_rest) = (alias.clone(), alias.clone(), alias);
    Law {
        draw: Box::new(move |words| of_draw.draw(words[0])),
        prob: Box::new(move |i| of_prob.prob(i)),
        remaining: Box::new(move |excluded| of_rest.remaining(excluded.iter().copied())),
    }
}

const HISTORY: [u32; 4] = [0, 1, 5, 9];

#[test]
fn the_sound_law_passes_and_every_mutant_is_caught() {
    let weights = steep_weights(0.75);
    let (free, held) = (law(&weights, &[]), law(&weights, &HISTORY));
    let uniform = vec![1.0 / ITEMS as f64; ITEMS];
    faults(&draws(&sound(&weights), Exclude::None, false), &free).unwrap();
    faults(&draws(&sound(&weights), Exclude::History, false), &held).unwrap();

    let caught = |what: &str, negatives: Negatives, law: &[f64]| {
        assert!(faults(&negatives, law).is_err(), "not caught: {what}");
    };
    let flat = |draw: fn(u64) -> u32| Law {
        draw: Box::new(move |w| draw(w[0])),
        prob: Box::new(|_| 1.0 / ITEMS as f64),
        remaining: Box::new(|_| 1.0),
    };
    let last_missing = flat(|word| below(word, ITEMS as u64 - 1) as u32);
    caught("the last item is out of reach", draws(&last_missing, Exclude::None, false), &uniform);

    // Eight bits stand for what the 24 bits of f32 do to a catalogue 2^16 times larger.
    let coarse = flat(|word| (((word >> 56) * ITEMS as u64) >> 8) as u32);
    caught("too few random bits", draws(&coarse, Exclude::None, false), &uniform);

    let remainder = flat(|word| ((word >> 56) % ITEMS as u64) as u32);
    caught("remainder instead of multiply-high", draws(&remainder, Exclude::None, false), &uniform);

    let exponent = Law { draw: sound(&steep_weights(0.70)).draw, ..sound(&weights) };
    caught("another exponent", draws(&exponent, Exclude::None, false), &free);

    let mut tilted = weights.clone();
    (0..ITEMS).for_each(|i| tilted[i] *= if i % 2 == 0 { 1.03 } else { 0.97 });
    let tilted = Law { draw: sound(&tilted).draw, ..sound(&weights) };
    caught("a table off by three percent", draws(&tilted, Exclude::None, false), &free);

    caught("no exclusion", draws(&sound(&weights), Exclude::None, false), &held);
    caught("only the target excluded", draws(&sound(&weights), Exclude::Target, false), &held);

    let neighbour = {
        let draw = sound(&weights).draw;
        Law {
            draw: Box::new(move |w| {
                let mut item = draw(w);
                while HISTORY.contains(&item) {
                    item = (item + 1) % ITEMS as u32;
                }
                item
            }),
            ..sound(&weights)
        }
    };
    caught("the next item instead of another draw", draws(&neighbour, Exclude::History, false), &held);

    let unconditional = Law { remaining: Box::new(|_| 1.0), ..sound(&weights) };
    caught("log q of the unconditional law", draws(&unconditional, Exclude::History, false), &held);

    let unnormalised = Law { prob: Box::new(|i| (1.0 + 600.0 / (1.0 + f64::from(i))).powf(0.75)), ..sound(&weights) };
    caught("log q without its normaliser", draws(&unnormalised, Exclude::None, false), &free);

    let halves: Vec<f64> = (0..ITEMS).map(|i| 0.5 * free[i] + 0.5 / ITEMS as f64).collect();
    let component = {
        let draw = sound(&weights).draw;
        let mixed = move |w: &[u64]| if w[1] >> 63 == 0 { draw(w) } else { below(w[0], ITEMS as u64) as u32 };
        Law { draw: Box::new(mixed), ..sound(&weights) }
    };
    caught("log q of one component of a mixture", draws(&component, Exclude::None, false), &halves);

    // 1 + ln(1 + n) without its 1: items the cluster has not met can no longer be drawn.
    let counts: Vec<f64> = (0..ITEMS).map(|i| if i % 3 == 0 { 0.0 } else { 50.0 / (1.0 + i as f64) }).collect();
    let cans: Vec<f64> = counts.iter().map(|n| 1.0 + n.ln_1p()).collect();
    let baseless = sound(&counts.iter().map(|n| n.ln_1p()).collect::<Vec<_>>());
    caught("the base of the cluster's law is missing", draws(&baseless, Exclude::None, false), &law(&cans, &[]));

    let off_by_one = Law {
        draw: {
            let draw = sound(&weights).draw;
            Box::new(move |w| (draw(w) + 1) % ITEMS as u32)
        },
        ..sound(&weights)
    };
    caught("ids off by one", draws(&off_by_one, Exclude::None, false), &free);

    let other_item = Law {
        prob: {
            let prob = sound(&weights).prob;
            Box::new(move |i| prob((i + 1) % ITEMS as u32))
        },
        ..sound(&weights)
    };
    caught("log q of another item", draws(&other_item, Exclude::None, false), &free);

    let base_two = Law {
        prob: {
            let prob = sound(&weights).prob;
            Box::new(move |i| prob(i).powf(std::f64::consts::LOG2_E))
        },
        ..sound(&weights)
    };
    caught("log q to base two", draws(&base_two, Exclude::None, false), &free);

    let twice = {
        let (prob, remaining) = (sound(&weights).prob, sound(&weights).remaining);
        Law {
            remaining: Box::new(move |excluded| remaining(excluded) - excluded.first().map_or(0.0, |&i| prob(i))),
            ..sound(&weights)
        }
    };
    caught("an excluded item taken off twice", draws(&twice, Exclude::History, false), &held);

    let columns = Law { draw: Box::new(|w| below(w[0], ITEMS as u64) as u32), ..sound(&weights) };
    caught("an alias table without its aliases", draws(&columns, Exclude::None, false), &free);

    let one_word = {
        let draw = sound(&weights).draw;
        let prob = |p: f64| 0.5 * p + 0.5 / ITEMS as f64;
        let of = sound(&weights).prob;
        let mixed = move |w: &[u64]| if w[0] >> 63 == 0 { draw(w) } else { below(w[0], ITEMS as u64) as u32 };
        Law { draw: Box::new(mixed), prob: Box::new(move |i| prob(of(i))), ..sound(&weights) }
    };
    caught("one word for the component and the item", draws(&one_word, Exclude::None, false), &halves);

    let mut looked_ahead = weights.clone();
    (0..ITEMS).step_by(6).for_each(|i| looked_ahead[i] *= 1.05);
    caught("counts that include held-out events", draws(&sound(&looked_ahead), Exclude::None, false), &free);

    let smoothed: Vec<f64> = (0..ITEMS).map(|i| (2.0 + 600.0 / (1.0 + i as f64)).powf(0.75)).collect();
    caught("one event too many for every item", draws(&sound(&smoothed), Exclude::None, false), &free);

    let repeated = draws(&sound(&weights), Exclude::None, false);
    let repeats = |n: &Negatives| (0..n.groups()).any(|g| (1..n.n).any(|s| n.ids_of(g)[..s].contains(&n.ids_of(g)[s])));
    assert!(repeats(&repeated) && !repeats(&draws(&sound(&weights), Exclude::None, true)));
}
