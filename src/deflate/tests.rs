use proptest::prelude::*;

use super::*;

/// What two independent readers make of a stream of `data`.
fn there_and_back(data: &[u8]) -> Vec<u8> {
    let mut space = vec![0; data.len() + data.len() / 8 + 1024];
    let length = Deflater::new().compress(data, &mut space).unwrap();
    let stream = &space[..length];

    let mut read = vec![0; data.len()];
    let result = libdeflater::Decompressor::new().deflate_decompress(stream, &mut read);
    assert_eq!(result, Ok(data.len()));
    assert_eq!(read, data);

    let mut read = Vec::new();
    let mut reader = flate2::bufread::DeflateDecoder::new(stream);
    std::io::copy(&mut reader, &mut read).unwrap();
    assert_eq!(reader.total_in(), length as u64);
    assert_eq!(read, data);
    stream.to_vec()
}

/// Bytes that nothing makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[test]
fn nothing_is_a_stream_too() {
    assert!(there_and_back(&[]).len() < 16);
}

#[test]
fn every_short_length_comes_back() {
    for length in 1..64 {
        there_and_back(&vec![7; length]);
        there_and_back(&noise(length));
    }
}

#[test]
fn segments_and_their_borders_come_back() {
    let text = noise(3).repeat(SEGMENT);
    for length in [SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT + 17] {
        there_and_back(&text[..length]);
        there_and_back(&noise(length));
    }
}

#[test]
fn one_value_takes_the_longest_matches() {
    let stream = there_and_back(&[0; SEGMENT]);
    // 254 copies of 258 bytes with a bit each for length and distance, and a header.
    assert!(stream.len() < 128, "{}", stream.len());
}

#[test]
fn a_copy_comes_from_as_far_as_the_window_reaches_and_no_farther() {
    let window = 32768;
    let piece = noise(4096);
    let apart = |distance: usize| {
        let mut data = piece.clone();
        data.extend(noise(distance + 4096)[8192..].iter().take(distance - 4096));
        data.extend(&piece);
        there_and_back(&data).len()
    };
    let (near, far) = (apart(window), apart(window + 1));
    assert!(near + 3500 < far, "{near} against {far}");
}

#[test]
fn parts_of_different_kinds_get_codes_of_their_own() {
    let kind = |values: u8, base: u8| -> Vec<u8> {
        let bytes = noise(SEGMENT / 2).into_iter();
        bytes.map(|byte| base + byte % values).collect()
    };
    let both = [kind(16, 0), kind(16, 100)].concat();
    let stream = there_and_back(&both);
    // Four bits a byte with codes of their own, five with common ones.
    assert!(stream.len() < SEGMENT * 9 / 16, "{}", stream.len());
}

#[test]
fn what_does_not_fit_is_refused_at_every_size() {
    let data = [noise(300), b"again and again ".repeat(40)].concat();
    let stream = there_and_back(&data);
    for size in 0..stream.len() {
        let mut space = vec![0; size];
        assert_eq!(Deflater::new().compress(&data, &mut space), None, "{size}");
    }
    let mut exact = vec![0; stream.len()];
    let length = Deflater::new().compress(&data, &mut exact);
    assert_eq!((length, exact), (Some(stream.len()), stream));
}

#[test]
fn a_stream_does_not_depend_on_those_before_it() {
    let data = b"the quick brown fox ".repeat(100);
    let mut used = Deflater::new();
    let mut space = vec![0; SEGMENT + 1024];
    for before in [noise(SEGMENT), data.repeat(9), vec![1]] {
        used.compress(&before, &mut space).unwrap();
        let length = used.compress(&data, &mut space).unwrap();
        assert_eq!(space[..length], there_and_back(&data));
    }
}

#[test]
fn codes_are_complete_and_within_their_limit() {
    let fibonacci: Vec<u32> = std::iter::successors(Some((1, 1)), |&(a, b)| Some((b, a + b)))
        .map(|(a, _)| a)
        .take(24)
        .collect();
    let mut many = [1; 286];
    many[3] = 60_000;
    let cases: [(&[u32], usize); 5] = [
        (&fibonacci, 14),
        (&fibonacci[..19], 7),
        (&many, 14),
        (&[0, 5, 0], 14),
        (&[0, 0], 7),
    ];
    for (counts, limit) in cases {
        let mut lengths = vec![0; counts.len()];
        huffman::lengths(counts, limit, &mut lengths);
        let space: u32 = lengths
            .iter()
            .filter(|&&length| length > 0)
            .map(|&length| 1 << (limit - usize::from(length)))
            .sum();
        assert_eq!(space, 1 << limit, "{lengths:?}");
        for (&count, &length) in counts.iter().zip(&lengths) {
            assert!(count == 0 || (1..=limit).contains(&length.into()));
        }
    }
}

#[test]
fn codes_are_those_of_the_specification() {
    // The example of RFC 1951, 3.2.2.
    let mut codes = [huffman::Code::default(); 8];
    huffman::codes(&[3, 3, 3, 3, 3, 2, 4, 4], &mut codes);
    let written = codes.map(|code| {
        let bits: String = (0..code.count)
            .map(|at| char::from(b'0' + (code.bits >> at & 1) as u8))
            .collect();
        bits
    });
    assert_eq!(
        written,
        ["010", "011", "100", "101", "110", "00", "1110", "1111"]
    );
}

/// Data as files have it: noise, runs, and pieces of what came before.
fn data() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..600).prop_map(Part::Bytes),
        (any::<u8>(), 0..3000_usize).prop_map(|(value, length)| Part::Run(value, length)),
        (any::<u16>(), 0..900_usize).prop_map(|(back, length)| Part::Copy(back, length)),
        (1..20_u8, 0..9000_usize).prop_map(|(values, length)| Part::Few(values, length)),
    ];
    prop::collection::vec(part, 0..40).prop_map(|parts| {
        let mut data = Vec::new();
        for part in parts {
            part.append(&mut data);
        }
        data
    })
}

#[derive(Debug, Clone)]
enum Part {
    Bytes(Vec<u8>),
    Run(u8, usize),
    Copy(u16, usize),
    Few(u8, usize),
}

impl Part {
    fn append(self, data: &mut Vec<u8>) {
        match self {
            Part::Bytes(bytes) => data.extend(bytes),
            Part::Run(value, length) => data.extend(std::iter::repeat_n(value, length)),
            Part::Copy(back, length) => {
                let from = data.len().saturating_sub(usize::from(back) + 1);
                for at in from..(from + length) {
                    match data.get(at) {
                        Some(&byte) => data.push(byte),
                        None => return,
                    }
                }
            }
            Part::Few(values, length) => {
                data.extend(noise(length).into_iter().map(|byte| byte % values));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn all_data_comes_back(data in data()) {
        there_and_back(&data);
    }
}
