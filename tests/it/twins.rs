//! `kernels/philox.cuh` draws the same words as `rng.rs`: the header is compiled as C++ and its output compared.
//! Skips, saying so, where there is no C++ compiler.

use std::io::Write;
use std::process::Command;

use hardneg::rng::{Draws, Stream, below};

const PROGRAM: &str = r#"
#include <cstdio>
#define __device__
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((unsigned long long)a * b) >> 32); }
#include "philox.cuh"
int main() {
  u64 seeds[] = {0, 42, 0x123456789abcdefull}, steps[] = {0, 7, 1ull << 40}, indexes[] = {0, 1, 0xffffffffull, 1ull << 33};
  for (u64 seed : seeds) for (u64 step : steps) for (u64 index : indexes) {
    Words w = words(draws(seed, 11, 3, step), index);
    u64 word = w.w[0] | (u64)w.w[1] << 32;
    printf("%u %u %u %u %llu %llu\n", w.w[0], w.w[1], w.w[2], w.w[3], below(word, 50000000), below(word, 0xfffffffffffull));
  }
}
"#;

#[test]
fn philox_header_draws_the_words_of_the_plain_path() {
    let folder = tempfile::tempdir().unwrap();
    let (source, program) = (folder.path().join("twin.cpp"), folder.path().join("twin"));
    std::fs::File::create(&source).unwrap().write_all(PROGRAM.as_bytes()).unwrap();
    let kernels = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels");
    match Command::new("c++").args(["-std=c++17", "-Werror", "-I", kernels, "-o"]).arg(&program).arg(&source).status() {
        Ok(status) => assert!(status.success(), "philox.cuh does not compile as C++"),
        Err(_) => return println!("SKIPPED: no C++ compiler, so philox.cuh was not compared with rng.rs"),
    }
    let output = String::from_utf8(Command::new(&program).output().unwrap().stdout).unwrap();
    let mut lines = output.lines();
    assert_eq!(Stream::Test as u32, 11);
    for seed in [0, 42, 0x0123_4567_89ab_cdef] {
        for step in [0, 7, 1 << 40] {
            for index in [0, 1, 0xffff_ffff, 1 << 33] {
                let draws = Draws::new(seed, Stream::Test, 3, step);
                let [a, b, c, d] = draws.words(index);
                let word = draws.words64(index)[0];
                let (small, large) = (below(word, 50_000_000), below(word, 0xfff_ffff_ffff));
                assert_eq!(lines.next(), Some(format!("{a} {b} {c} {d} {small} {large}").as_str()));
            }
        }
    }
    assert_eq!(lines.next(), None);
}
