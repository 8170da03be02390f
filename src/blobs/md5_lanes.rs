//! MD5 of several blocks in one go.
//!
//! MD5 can't be hurried: each of its steps waits for the one before, and a core is idle most of that time. Four blocks of
//! one length take the steps side by side, a lane each, in the vectors that every processor of the kind has: four times the
//! bytes in little more than the time of one. It is written so that the compiler sees the vectors, and nothing here is
//! special to a processor; eight lanes would want more registers than there are.
//!
//! What comes out is checked twice: by the tests against another implementation, and by the service for every block sent.
//!
//! Source: RFC 1321.

use bytes::Bytes;
use md5::{Digest as _, Md5};

/// The MD5 of each block.
pub(super) fn md5_each(blocks: &[Bytes]) -> Vec<[u8; 16]> {
    // Lanes are fast when they are optimised alone; the library is in every build.
    if cfg!(debug_assertions) {
        return blocks.iter().map(|block| Md5::digest(block).into()).collect();
    }
    in_lanes(blocks)
}

fn in_lanes(blocks: &[Bytes]) -> Vec<[u8; 16]> {
    let mut sums = Vec::with_capacity(blocks.len());
    for alike in blocks.chunk_by(|one, next| one.len() == next.len()) {
        for some in alike.chunks(LANES) {
            if let [alone] = some {
                sums.push(Md5::digest(alone).into());
            } else {
                // A lane that has no block of its own takes the first one once more.
                let lanes = std::array::from_fn(|lane| &some.get(lane).unwrap_or(&some[0])[..]);
                sums.extend(side_by_side(lanes).into_iter().take(some.len()));
            }
        }
    }
    sums
}

/// How many blocks are worth waiting for.
pub(super) const LANES: usize = 4;

/// One word of each block.
type Words = [u32; LANES];

/// Of blocks that have one length.
fn side_by_side(blocks: [&[u8]; LANES]) -> [[u8; 16]; LANES] {
    let mut state = START.map(|word| [word; LANES]);
    let pieces = blocks.map(|block| block.as_chunks::<PIECE>().0);
    let rests = blocks.map(|block| block.as_chunks::<PIECE>().1);
    let mut all = |pieces: [&[[u8; PIECE]]; LANES]| {
        (0..pieces[0].len()).for_each(|n| compress(&mut state, pieces.map(|piece| &piece[n])));
    };
    all(pieces);
    let rest = rests[0].len();
    let end = if rest < PIECE - 8 { PIECE } else { 2 * PIECE };
    let bits = (blocks[0].len() as u64).wrapping_mul(8);
    let lasts: [_; LANES] = std::array::from_fn(|lane| {
        let mut last = [0; 2 * PIECE];
        last[..rest].copy_from_slice(rests[lane]);
        last[rest] = 0x80;
        last[end - 8..end].copy_from_slice(&bits.to_le_bytes());
        last
    });
    all(lasts.each_ref().map(|last| last[..end].as_chunks::<PIECE>().0));
    std::array::from_fn(|lane| {
        let mut sum = [0; 16];
        for (bytes, words) in sum.chunks_mut(4).zip(state) {
            bytes.copy_from_slice(&words[lane].to_le_bytes());
        }
        sum
    })
}

/// Takes one piece of each block in.
fn compress(state: &mut [Words; 4], pieces: [&[u8; PIECE]; LANES]) {
    let mut words = [[0; LANES]; 16];
    for (n, word) in words.iter_mut().enumerate() {
        for (lane, piece) in word.iter_mut().zip(pieces) {
            *lane = u32::from_le_bytes([
                piece[4 * n],
                piece[4 * n + 1],
                piece[4 * n + 2],
                piece[4 * n + 3],
            ]);
        }
    }
    let [mut a, mut b, mut c, mut d] = *state;
    // Unrolled: that is what keeps the lanes in registers.
    macro_rules! round {
        ($mix:expr, $round:literal, $times:literal, $from:literal, [$($step:literal)*]) => { $(
            let n = $step;
            let word = words[($times * n + $from) % 16];
            let turned = step($mix, [a, b, c, d], word, SINES[16 * $round + n], TURNS[$round][n % 4]);
            (a, b, c, d) = (d, turned, b, c);
        )* };
    }
    round!(|b, c, d| d ^ (b & (c ^ d)), 0, 1, 0, [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]);
    round!(|b, c, d| c ^ (d & (b ^ c)), 1, 5, 1, [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]);
    round!(|b, c, d| b ^ c ^ d, 2, 3, 5, [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]);
    round!(|b, c, d| c ^ (b | !d), 3, 7, 0, [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15]);
    for (word, more) in state.iter_mut().zip([a, b, c, d]) {
        *word = sum(*word, more);
    }
}

#[inline]
fn step(
    mix: impl Fn(u32, u32, u32) -> u32,
    [a, b, c, d]: [Words; 4],
    word: Words,
    sine: u32,
    turn: u32,
) -> Words {
    let mixed = std::array::from_fn(|lane| mix(b[lane], c[lane], d[lane]));
    let all = sum(sum(sum(a, word), [sine; LANES]), mixed);
    sum(all.map(|lane| lane.rotate_left(turn)), b)
}

#[inline]
fn sum(one: Words, other: Words) -> Words {
    std::array::from_fn(|lane| one[lane].wrapping_add(other[lane]))
}

/// What is taken in at a time, in bytes.
const PIECE: usize = 64;
const START: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
const TURNS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];
/// The sines of 1 to 64 radians, without sign, times 2³².
const SINES: [u32; 64] = [
    0xd76a_a478,
    0xe8c7_b756,
    0x2420_70db,
    0xc1bd_ceee,
    0xf57c_0faf,
    0x4787_c62a,
    0xa830_4613,
    0xfd46_9501,
    0x6980_98d8,
    0x8b44_f7af,
    0xffff_5bb1,
    0x895c_d7be,
    0x6b90_1122,
    0xfd98_7193,
    0xa679_438e,
    0x49b4_0821,
    0xf61e_2562,
    0xc040_b340,
    0x265e_5a51,
    0xe9b6_c7aa,
    0xd62f_105d,
    0x0244_1453,
    0xd8a1_e681,
    0xe7d3_fbc8,
    0x21e1_cde6,
    0xc337_07d6,
    0xf4d5_0d87,
    0x455a_14ed,
    0xa9e3_e905,
    0xfcef_a3f8,
    0x676f_02d9,
    0x8d2a_4c8a,
    0xfffa_3942,
    0x8771_f681,
    0x6d9d_6122,
    0xfde5_380c,
    0xa4be_ea44,
    0x4bde_cfa9,
    0xf6bb_4b60,
    0xbebf_bc70,
    0x289b_7ec6,
    0xeaa1_27fa,
    0xd4ef_3085,
    0x0488_1d05,
    0xd9d4_d039,
    0xe6db_99e5,
    0x1fa2_7cf8,
    0xc4ac_5665,
    0xf429_2244,
    0x432a_ff97,
    0xab94_23a7,
    0xfc93_a039,
    0x655b_59c3,
    0x8f0c_cc92,
    0xffef_f47d,
    0x8584_5dd1,
    0x6fa8_7e4f,
    0xfe2c_e6e0,
    0xa301_4314,
    0x4e08_11a1,
    0xf753_7e82,
    0xbd3a_f235,
    0x2ad7_d2bb,
    0xeb86_d391,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn side_by_side_blocks_have_the_sums_that_they_have_alone() {
        let bytes: Vec<u8> =
            (0_u32..40_000).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let bytes = Bytes::from(bytes);
        // Each way that a length can lie to the ends of pieces.
        for length in (0..200).chain([4096, 8000]) {
            for count in 1..=6 {
                let blocks: Vec<_> =
                    (0..count).map(|n| bytes.slice(n * 5000..n * 5000 + length)).collect();
                let alone: Vec<[u8; 16]> =
                    blocks.iter().map(|block| Md5::digest(block).into()).collect();
                assert_eq!(in_lanes(&blocks), alone, "{count} blocks of {length} bytes");
            }
        }
    }

    #[test]
    fn blocks_of_several_lengths_are_no_hindrance() {
        let blocks = [&b"a"[..], b"", b"abc", b"message digest", b"a"].map(Bytes::from_static);
        let alone: Vec<[u8; 16]> = blocks.iter().map(|block| Md5::digest(block).into()).collect();
        assert_eq!(in_lanes(&blocks), alone);
    }
}
