//! What the sandbox's model must answer, worked out again from the algorithms' descriptions, so that a mistake of the
//! sandbox isn't expected of it: Feature Hashing in three bits, of words and of pairs of neighbours.

/// The input that has these rows of text.
pub(crate) fn input_of(rows: &[&str]) -> String {
    let rows: Vec<_> = rows.iter().map(|row| format!("\"{row}\"")).collect();
    format!("Col2\n{}\n", rows.join("\n"))
}

/// The output that belongs to it.
pub(crate) fn scores_of(rows: &[&str]) -> String {
    let header: Vec<_> = (1..=8).map(|n| format!("HashingFeature_{n}")).collect();
    let rows = rows.iter().map(|row| features(row).map(|count| count.to_string()).join(","));
    [header.join(",")].into_iter().chain(rows).map(|line| line + "\r\n").collect()
}

fn features(text: &str) -> [u32; 8] {
    let words: Vec<_> = text.split_whitespace().map(|word| murmur3(word.as_bytes())).collect();
    // Vowpal Wabbit's way with two neighbours.
    let pairs = words.windows(2).map(|pair| pair[0].wrapping_mul(27_942_141).wrapping_add(pair[1]));
    let mut counts = [0; 8];
    for hash in words.iter().copied().chain(pairs) {
        counts[(hash % 8) as usize] += 1;
    }
    counts
}

/// `MurmurHash3`, x86, 32 bits, seed 0: as the pseudocode of the encyclopaedias has it.
fn murmur3(key: &[u8]) -> u32 {
    let mut hash = 0_u32;
    for part in key.chunks(4) {
        let mut block = 0_u32;
        for (n, byte) in part.iter().enumerate() {
            block += u32::from(*byte) << (8 * n);
        }
        block = block.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
        hash ^= block;
        if part.len() == 4 {
            hash = hash.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
        }
    }
    hash ^= u32::try_from(key.len()).unwrap();
    for (shift, factor) in [(16, 0x85eb_ca6b), (13, 0xc2b2_ae35), (16, 1)] {
        hash = (hash ^ (hash >> shift)).wrapping_mul(factor);
    }
    hash
}

#[test]
fn the_published_sentence_has_the_published_counts() {
    assert_eq!(features("This is a good day"), [1, 1, 2, 2, 0, 2, 0, 1]);
}
