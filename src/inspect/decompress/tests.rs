use super::*;

/// Bytes that compress somewhat.
fn text() -> Vec<u8> {
    let words = (0..3000_u32).map(|n| format!("word {} ", n.wrapping_mul(2_654_435_761) >> 20));
    words.collect::<String>().into_bytes()
}

fn decompress(method: Method, stored: &[u8], room: usize) -> Option<Vec<u8>> {
    let mut unit = vec![0; room];
    let length = Decompressor::default().decompress(method, stored, &mut unit)?;
    unit.truncate(length);
    Some(unit)
}

#[test]
fn what_follows_a_unit_is_ignored_and_more_than_its_room_is_damage() {
    let text = text();
    let mut zlib = vec![0; text.len()];
    let mut deflate = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
    let length = deflate.zlib_compress(&text, &mut zlib).unwrap();
    zlib.truncate(length);
    let zstd = zstd::bulk::compress(&text, 3).unwrap();
    let mut xz =
        lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(0)).unwrap();
    std::io::Write::write_all(&mut xz, &text).unwrap();
    let xz = xz.finish().unwrap();
    for (method, stored) in [(Method::Zlib, zlib), (Method::Zstd, zstd), (Method::Xz, xz)] {
        let mut padded = stored.clone();
        padded.resize(stored.len().next_multiple_of(4096), 0);
        for room in [text.len(), text.len() + 1000] {
            assert_eq!(decompress(method, &padded, room).as_ref(), Some(&text));
        }
        assert_eq!(decompress(method, &padded, text.len() - 1), None);
        for end in [0, 5, stored.len() / 2] {
            assert_eq!(decompress(method, &stored[..end], text.len()), None);
        }
    }
}

#[test]
fn lz4_follows_the_specification_of_its_blocks() {
    for (block, expected) in [
        (&b"\x00"[..], Some(&b""[..])),
        (b"\x50hello", Some(b"hello")),
        // A literal, then five of it, then the last literals.
        (b"\x11a\x01\x00\x20bc", Some(b"aaaaaabc")),
        (b"\x1fa\x01\x00\x02\x10z", Some(b"aaaaaaaaaaaaaaaaaaaaaaz")),
        // Before the start; cut off; no room.
        (b"\x11a\x02\x00\x20bc", None),
        (b"\x11a\x00\x00\x20bc", None),
        (b"\x50hell", None),
        (b"\x11a\x01", None),
        (b"\xf0\xff\xff\xff", None),
        (b"\x1fa\x01\x00\xff\xff\xff\x00\x10z", None),
    ] {
        let found = decompress(Method::Lz4, block, 64);
        assert_eq!(found.as_deref(), expected, "{block:?}");
    }
}

#[test]
fn lzo_follows_the_description_of_its_instructions() {
    let end = b"\x11\x00\x00";
    for (stream, expected) in [
        (&b""[..], Some(&b""[..])),
        // 22: five literals; 21: four; 18: one.
        (b"\x16hello", Some(b"hello")),
        // 0: 18 or more literals.
        (
            b"\x00\x03abcdefghijklmnopqrstu",
            Some(b"abcdefghijklmnopqrstu"),
        ),
        // 64..127: three or four from near; a literal follows.
        (b"\x16hello\x51\x00!", Some(b"hellohel!")),
        // 32..63 with a length of its own, overlapping.
        (b"\x12a\x20\x01\x00\x00", Some(&[b'a'; 35])),
        // 0..15 after one to three literals: two bytes.
        (b"\x14abc\x04\x00", Some(b"abcbc")),
        (b"\x12a\x20\x01\x00", None),
        (b"\x12a\x51\x01", None),
        (b"\x16hell", None),
        (b"\x12a\x20\0\0\0\0\0\0\0\0\x01\x00\x00", None),
    ] {
        let stream = [stream, end].concat();
        let found = decompress(Method::Lzo, &stream, 64);
        assert_eq!(found.as_deref(), expected, "{stream:?}");
    }
    assert_eq!(decompress(Method::Lzo, b"\x16hello", 64), None, "no end");
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_a_decompressor_panic(
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
    ) {
        let methods = [
            Method::Deflate, Method::Zlib, Method::Zstd, Method::Xz, Method::Lz4, Method::Lzo,
            Method::LzoSectors { sector: 16 },
        ];
        for method in methods {
            let _ = decompress(method, &bytes, 300);
        }
    }
}
