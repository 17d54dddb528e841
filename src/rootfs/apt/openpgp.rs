//! Verification of signed files against a keyring.
//!
//! The mathematics are the `pgp` crate's; the policy is ours and fails closed:
//!
//! * a certificate counts only with a valid self-signature, and neither revoked nor expired;
//! * a primary key signs only if its self-signatures do not say that it is for other
//!   uses; a subkey counts only with a valid binding (and back signature) that lets it;
//! * MD5, SHA-1 and RIPEMD-160 are refused everywhere, as is RSA below 2048 bits and DSA;
//! * one good signature by a key of the keyring suffices; signatures by keys that
//!   are not in the keyring are ignored, as archives sign with old and new keys at once;
//! * only the text that was signed is ever returned.

use std::io::Cursor;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pgp::composed::{
    CleartextSignedMessage, Deserializable as _, DetachedSignature, SignedPublicKey,
    SignedPublicSubKey,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType, SubpacketData};
use pgp::types::{KeyDetails, PublicParams, RsaPublicParams, Tag};

/// Signatures from this much ahead of our clock are still taken.
const CLOCK_SLACK: Duration = Duration::from_secs(24 * 3600);

/// Certificates that may sign, and how to speak of them.
#[derive(Debug, Clone)]
pub struct Keyring {
    name: String,
    certificates: Vec<SignedPublicKey>,
}

/// Why a file is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The keyring cannot be read.
    #[error("keyring {keyring} cannot be read: {reason}")]
    Keyring {
        /// The keyring.
        keyring: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is not a clear-signed message.
    #[error("it is not a clear-signed OpenPGP message: {reason}")]
    Format {
        /// What is wrong with it.
        reason: String,
    },
    /// The file of signatures is not one.
    #[error("its signatures cannot be read: {reason}")]
    Detached {
        /// What is wrong with them.
        reason: String,
    },
    /// No signature is good.
    #[error("no valid signature by a key of {keyring}: {}", .signatures.join("; "))]
    NotSigned {
        /// The keyring.
        keyring: String,
        /// For each signature why it does not count.
        signatures: Vec<String>,
    },
}

/// A text whose signature is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The signed text with `\n` line ends.
    pub text: String,
    /// Fingerprint of the key that signed it, in upper-case hexadecimal.
    pub signer: String,
}

impl Keyring {
    /// Reads certificates, binary or ASCII-armored; `name` is for messages.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Keyring, VerifyError> {
        let fail = |reason: String| VerifyError::Keyring {
            keyring: name.to_owned(),
            reason,
        };
        let mut certificates = Vec::new();
        if bytes.starts_with(b"-----BEGIN") {
            // A file may hold several armored blocks one after the other.
            let text = String::from_utf8_lossy(bytes);
            for block in armored_blocks(&text) {
                let (keys, _) = SignedPublicKey::from_armor_many(Cursor::new(block.as_bytes()))
                    .map_err(|error| fail(error.to_string()))?;
                for key in keys {
                    certificates.push(key.map_err(|error| fail(error.to_string()))?);
                }
            }
        } else {
            let bytes = without_trust(bytes);
            let keys = SignedPublicKey::from_bytes_many(bytes.as_slice())
                .map_err(|error| fail(error.to_string()))?;
            for key in keys {
                certificates.push(key.map_err(|error| fail(error.to_string()))?);
            }
        }
        if certificates.is_empty() {
            return Err(fail("it holds no certificate".to_owned()));
        }
        Ok(Keyring {
            name: name.to_owned(),
            certificates,
        })
    }

    /// Returns the embedded keys of Debian's archive.
    pub fn debian() -> Result<Keyring, VerifyError> {
        Keyring::parse(
            "the embedded Debian archive keyring",
            include_bytes!("keys/debian-archive-keyring.pgp"),
        )
    }

    /// Returns the embedded keys of Ubuntu's archive.
    pub fn ubuntu() -> Result<Keyring, VerifyError> {
        Keyring::parse(
            "the embedded Ubuntu archive keyring",
            include_bytes!("keys/ubuntu-archive-keyring.pgp"),
        )
    }

    /// Returns the fingerprints of the primary keys in upper-case hexadecimal, sorted.
    pub fn fingerprints(&self) -> Vec<String> {
        let mut all: Vec<String> = self.certificates.iter().map(fingerprint).collect();
        all.sort();
        all
    }

    /// Verifies a clear-signed file as of `now` and returns what was signed.
    pub fn verify(&self, bytes: &[u8], now: SystemTime) -> Result<Verified, VerifyError> {
        let format = |reason: String| VerifyError::Format { reason };
        let text = std::str::from_utf8(bytes).map_err(|error| format(error.to_string()))?;
        if !text.starts_with("-----BEGIN PGP SIGNED MESSAGE-----") {
            return Err(format("there is no signed message at its begin".to_owned()));
        }
        let (message, _) =
            CleartextSignedMessage::from_string(text).map_err(|error| format(error.to_string()))?;
        let signed = message.signed_text();
        let signer = self.signer(message.signatures().iter(), signed.as_bytes(), now)?;
        Ok(Verified {
            text: signed.replace("\r\n", "\n"),
            signer,
        })
    }

    /// The same for a file whose signatures, armored or binary, are in a file of their own.
    pub fn verify_detached(
        &self,
        bytes: &[u8],
        signatures: &[u8],
        now: SystemTime,
    ) -> Result<Verified, VerifyError> {
        let format = |reason: String| VerifyError::Detached { reason };
        let (found, _) = DetachedSignature::from_reader_many(Cursor::new(signatures))
            .map_err(|error| format(error.to_string()))?;
        let found: Vec<DetachedSignature> = found
            .collect::<Result<_, _>>()
            .map_err(|error| format(error.to_string()))?;
        let signer = self.signer(found.iter().map(|found| &found.signature), bytes, now)?;
        let text = String::from_utf8(bytes.to_vec()).map_err(|error| format(error.to_string()))?;
        Ok(Verified { text, signer })
    }

    /// Who made the first signature that is good.
    fn signer<'s>(
        &self,
        signatures: impl Iterator<Item = &'s Signature>,
        data: &[u8],
        now: SystemTime,
    ) -> Result<String, VerifyError> {
        let mut reasons = Vec::new();
        for signature in signatures {
            match self.check_signature(signature, data, now) {
                Ok(signer) => return Ok(signer),
                Err(reason) => reasons.push(reason),
            }
        }
        if reasons.is_empty() {
            reasons.push("there is no signature".to_owned());
        }
        Err(VerifyError::NotSigned {
            keyring: self.name.clone(),
            signatures: reasons,
        })
    }

    fn check_signature(
        &self,
        signature: &Signature,
        data: &[u8],
        now: SystemTime,
    ) -> Result<String, String> {
        if !matches!(
            signature.typ(),
            Some(SignatureType::Text | SignatureType::Binary)
        ) {
            return Err("a signature is not one over a document".to_owned());
        }
        let issuer = issuer_name(signature);
        check_hash(signature.hash_alg())
            .map_err(|reason| format!("signature by {issuer}: {reason}"))?;
        check_times(signature, now).map_err(|reason| format!("signature by {issuer}: {reason}"))?;

        let mut reason = None;
        for certificate in &self.certificates {
            if is_issued_by(signature, &certificate.primary_key) {
                match usable_primary(certificate, now).and_then(|own| {
                    check_purpose(&certificate.primary_key, &own)?;
                    check_strength(certificate.primary_key.public_params())?;
                    signature
                        .verify(&certificate.primary_key, data)
                        .map_err(|_| "does not match the text".to_owned())
                }) {
                    Ok(()) => return Ok(fingerprint(&certificate.primary_key)),
                    Err(why) => reason = Some(why),
                }
            }
            for subkey in &certificate.public_subkeys {
                if !is_issued_by(signature, &subkey.key) {
                    continue;
                }
                match usable_primary(certificate, now)
                    .and_then(|_| usable_subkey(certificate, subkey, now))
                    .and_then(|()| {
                        check_strength(subkey.key.public_params())?;
                        signature
                            .verify(&subkey.key, data)
                            .map_err(|_| "does not match the text".to_owned())
                    }) {
                    Ok(()) => return Ok(fingerprint(&subkey.key)),
                    Err(why) => reason = Some(why),
                }
            }
        }
        Err(match reason {
            Some(reason) => format!("signature by {issuer}: {reason}"),
            None => format!("signature by {issuer}: the key is not in the keyring"),
        })
    }
}

fn armored_blocks(text: &str) -> Vec<&str> {
    const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
    let starts: Vec<usize> = text.match_indices(BEGIN).map(|(at, _)| at).collect();
    starts
        .iter()
        .enumerate()
        .map(|(index, start)| {
            let end = starts.get(index + 1).copied().unwrap_or(text.len());
            text[*start..end].trim_end()
        })
        .collect()
}

fn fingerprint(key: &impl KeyDetails) -> String {
    format!("{:X}", key.fingerprint())
}

fn issuer_name(signature: &Signature) -> String {
    if let Some(fingerprint) = signature.issuer_fingerprint().first() {
        return format!("{fingerprint:X}");
    }
    match signature.issuer_key_id().first() {
        Some(id) => id.to_string().to_ascii_uppercase(),
        None => "an unnamed key".to_owned(),
    }
}

fn is_issued_by(signature: &Signature, key: &impl KeyDetails) -> bool {
    let fingerprints = signature.issuer_fingerprint();
    if fingerprints.is_empty() {
        signature.issuer_key_id().contains(&&key.legacy_key_id())
    } else {
        fingerprints.contains(&&key.fingerprint())
    }
}

fn check_hash(algorithm: Option<HashAlgorithm>) -> Result<(), String> {
    match algorithm {
        Some(
            HashAlgorithm::Sha256
            | HashAlgorithm::Sha384
            | HashAlgorithm::Sha512
            | HashAlgorithm::Sha3_256
            | HashAlgorithm::Sha3_512,
        ) => Ok(()),
        Some(weak) => Err(format!("hash {weak} is refused")),
        None => Err("the signature's format is not known".to_owned()),
    }
}

fn check_strength(params: &PublicParams) -> Result<(), String> {
    match params {
        PublicParams::RSA(rsa) => {
            if modulus_bits(rsa) < 2048 {
                return Err("RSA keys below 2048 bits are refused".to_owned());
            }
            Ok(())
        }
        PublicParams::ECDSA(_)
        | PublicParams::EdDSALegacy(_)
        | PublicParams::Ed25519(_)
        | PublicParams::Ed448(_) => Ok(()),
        PublicParams::DSA(_) => Err("DSA keys are refused".to_owned()),
        _ => Err("the key's algorithm is not one for signatures".to_owned()),
    }
}

/// Bits of the modulus. It is the first number of a key's, and numbers begin with
/// their count of bits.
///
/// [RFC 9580, section 3.2](https://www.rfc-editor.org/rfc/rfc9580#section-3.2).
fn modulus_bits(rsa: &RsaPublicParams) -> u16 {
    use pgp::ser::Serialize as _;
    let mut bytes = Vec::new();
    match rsa.to_writer(&mut bytes) {
        Ok(()) => bytes
            .first_chunk()
            .map_or(0, |bits| u16::from_be_bytes(*bits)),
        Err(_) => 0,
    }
}

/// Whether a primary key may sign documents, by its newest self-signatures. One that
/// says nothing about its uses is for all that its algorithm can do.
fn check_purpose(key: &impl KeyDetails, own: &[&Signature]) -> Result<(), String> {
    let says_other = |signature: &&Signature| {
        let flags = signature.config().into_iter().flat_map(|config| {
            let packets = config.hashed_subpackets();
            packets.filter_map(|packet| match &packet.data {
                SubpacketData::KeyFlags(flags) => Some(flags),
                _ => None,
            })
        });
        flags.into_iter().any(|flags| !flags.sign())
    };
    if own.iter().any(says_other) {
        return Err(format!("key {} is not meant for signing", fingerprint(key)));
    }
    Ok(())
}

fn seconds(time: pgp::types::Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::from(time.as_secs()))
}

fn check_times(signature: &Signature, now: SystemTime) -> Result<(), String> {
    let created = seconds(
        signature
            .created()
            .ok_or_else(|| "it has no creation time".to_owned())?,
    );
    if created > now + CLOCK_SLACK {
        return Err("it was made in the future; check this machine's clock".to_owned());
    }
    if let Some(life) = signature.signature_expiration_time()
        && life.as_secs() > 0
        && created + Duration::from_secs(u64::from(life.as_secs())) < now
    {
        return Err("it has expired".to_owned());
    }
    Ok(())
}

fn check_key_life(
    key: &impl KeyDetails,
    binding: &Signature,
    now: SystemTime,
) -> Result<(), String> {
    if let Some(life) = binding.key_expiration_time()
        && life.as_secs() > 0
        && seconds(key.created_at()) + Duration::from_secs(u64::from(life.as_secs())) < now
    {
        return Err(format!("key {} has expired", fingerprint(key)));
    }
    Ok(())
}

/// Tells whether a self-signature may be believed: strong, in time and not expired itself.
fn is_current(signature: &Signature, now: SystemTime) -> bool {
    check_hash(signature.hash_alg()).is_ok() && check_times(signature, now).is_ok()
}

/// A binary keyring without trust packets, which GnuPG keeps in its own keyrings:
/// they are of no meaning to others, and end a certificate for the parser. What is
/// not a packet is left for the parser to refuse.
///
/// [RFC 9580, section 4.2](https://www.rfc-editor.org/rfc/rfc9580#section-4.2).
fn without_trust(bytes: &[u8]) -> Vec<u8> {
    const TRUST: u8 = 12;
    let mut kept = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((tag, length)) = packet(rest) {
        let Some((whole, after)) = rest.split_at_checked(length) else {
            break;
        };
        if tag != TRUST {
            kept.extend_from_slice(whole);
        }
        rest = after;
    }
    kept.extend_from_slice(rest);
    kept
}

/// Tag and whole length of the packet that bytes begin with; `None` where there is
/// none, or none whose header says its length.
fn packet(bytes: &[u8]) -> Option<(u8, usize)> {
    let (&first, rest) = bytes.split_first()?;
    let number = |bytes: Option<&[u8]>| {
        bytes?.iter().try_fold(0_usize, |sum, &byte| {
            sum.checked_mul(256)?.checked_add(usize::from(byte))
        })
    };
    let (tag, header, body) = match (first & 0xc0, rest.first().copied()) {
        (0xc0, Some(one @ 0..=191)) => (first & 0x3f, 2, usize::from(one)),
        (0xc0, Some(one @ 192..=223)) => {
            let two = usize::from(*rest.get(1)?);
            let body = (usize::from(one) - 192) * 256 + two + 192;
            (first & 0x3f, 3, body)
        }
        (0xc0, Some(255)) => (first & 0x3f, 6, number(rest.get(1..5))?),
        (0x80, Some(_)) => {
            let size = match first & 3 {
                0 => 1,
                1 => 2,
                2 => 4,
                _ => return None,
            };
            ((first >> 2) & 0xf, 1 + size, number(rest.get(..size))?)
        }
        _ => return None,
    };
    Some((tag, body.checked_add(header)?))
}

/// Checks a primary key; returns the self-signatures that say what it is.
fn usable_primary(
    certificate: &SignedPublicKey,
    now: SystemTime,
) -> Result<Vec<&Signature>, String> {
    let key = &certificate.primary_key;
    let revoked = certificate
        .details
        .revocation_signatures
        .iter()
        .any(|signature| signature.verify_key(key).is_ok());
    if revoked {
        return Err(format!("key {} is revoked", fingerprint(key)));
    }
    // The newest self-signature over the key itself and the newest over a user id
    // both say how long it lives; one may be silent about that, as Debian's are.
    let newer = |best: &Option<&Signature>, signature: &Signature| {
        best.is_none_or(|best| best.created() < signature.created())
    };
    let (mut direct, mut certified) = (None, None);
    for signature in &certificate.details.direct_signatures {
        if is_current(signature, now)
            && is_issued_by(signature, key)
            && signature.verify_key(key).is_ok()
            && newer(&direct, signature)
        {
            direct = Some(signature);
        }
    }
    for user in &certificate.details.users {
        let own = |signature: &&Signature| is_issued_by(signature, key);
        let verified = |signature: &&Signature| {
            signature
                .verify_certification(key, Tag::UserId, &user.id)
                .is_ok()
        };
        let withdrawn = user.signatures.iter().filter(own).any(|signature| {
            signature.typ() == Some(SignatureType::CertRevocation) && verified(&signature)
        });
        if withdrawn {
            continue;
        }
        for signature in user.signatures.iter().filter(own) {
            if signature.is_certification()
                && is_current(signature, now)
                && verified(&signature)
                && newer(&certified, signature)
            {
                certified = Some(signature);
            }
        }
    }
    if direct.is_none() && certified.is_none() {
        return Err(format!(
            "key {} has no valid self-signature",
            fingerprint(key)
        ));
    }
    let own: Vec<&Signature> = direct.into_iter().chain(certified).collect();
    for signature in &own {
        check_key_life(key, signature, now)?;
    }
    Ok(own)
}

fn usable_subkey(
    certificate: &SignedPublicKey,
    subkey: &SignedPublicSubKey,
    now: SystemTime,
) -> Result<(), String> {
    let primary = &certificate.primary_key;
    let name = || fingerprint(&subkey.key);
    let mut newest: Option<&Signature> = None;
    for signature in &subkey.signatures {
        if signature
            .verify_subkey_binding(primary, &subkey.key)
            .is_err()
        {
            continue;
        }
        match signature.typ() {
            Some(SignatureType::SubkeyRevocation) => {
                return Err(format!("key {} is revoked", name()));
            }
            Some(SignatureType::SubkeyBinding)
                if is_current(signature, now)
                    && newest.is_none_or(|best| best.created() < signature.created()) =>
            {
                newest = Some(signature);
            }
            _ => {}
        }
    }
    let binding = newest.ok_or_else(|| format!("key {} is not bound to its owner", name()))?;
    if !binding.key_flags().sign() {
        return Err(format!("key {} is not meant for signing", name()));
    }
    let back = binding
        .embedded_signature()
        .filter(|back| check_hash(back.hash_alg()).is_ok())
        .is_some_and(|back| {
            back.verify_primary_key_binding(&subkey.key, primary)
                .is_ok()
        });
    if !back {
        return Err(format!("key {} does not confirm its owner", name()));
    }
    check_key_life(&subkey.key, binding, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_that_can_be_forged_are_refused() {
        for weak in [
            HashAlgorithm::Md5,
            HashAlgorithm::Sha1,
            HashAlgorithm::Ripemd160,
        ] {
            assert!(check_hash(Some(weak)).is_err(), "{weak}");
        }
        assert!(check_hash(None).is_err());
        assert!(check_hash(Some(HashAlgorithm::Sha512)).is_ok());
    }

    #[test]
    fn rsa_keys_have_2048_bits_at_least() {
        for (bits, is_good) in [
            (1024_u16, false),
            (1992, false),
            (2047, false),
            (2048, true),
            (3072, true),
        ] {
            // Only the size counts here: an odd number of so many bits, and 65537.
            let mut bytes = bits.to_be_bytes().to_vec();
            let from = bytes.len();
            bytes.resize(from + usize::from(bits.div_ceil(8)), 0xFF);
            bytes[from] >>= (8 - bits % 8) % 8;
            bytes.extend([0, 17, 1, 0, 1]);
            let rsa = RsaPublicParams::try_from_reader(bytes.as_slice()).expect("valid");
            assert_eq!(modulus_bits(&rsa), bits);
            let checked = check_strength(&PublicParams::RSA(rsa));
            assert_eq!(checked.is_ok(), is_good, "{bits}");
        }
    }

    #[test]
    fn embedded_keyring_has_the_documented_keys() {
        let readme = include_str!("keys/README.md");
        let mut fingerprints = Vec::new();
        for keyring in [Keyring::debian(), Keyring::ubuntu()] {
            let keyring = keyring.expect("the embedded keyring is valid");
            assert!(!keyring.certificates.is_empty());
            fingerprints.extend(keyring.fingerprints());
        }
        for fingerprint in &fingerprints {
            assert!(
                readme.contains(fingerprint),
                "{fingerprint} is not documented"
            );
        }
        let documented = readme
            .lines()
            .filter(|line| line.starts_with("| `"))
            .count();
        assert_eq!(documented, fingerprints.len());
    }

    #[test]
    fn embedded_keys_are_usable_when_they_were_taken() {
        let keyring = Keyring::debian().expect("the embedded keyring is valid");
        let now = UNIX_EPOCH + Duration::from_secs(1_760_000_000);
        for certificate in &keyring.certificates {
            let own = usable_primary(certificate, now).expect("usable");
            assert_eq!(check_purpose(&certificate.primary_key, &own), Ok(()));
            for subkey in &certificate.public_subkeys {
                assert_eq!(usable_subkey(certificate, subkey, now), Ok(()));
            }
        }
        let ubuntu = Keyring::ubuntu().expect("the embedded keyring is valid");
        let usable: Vec<String> = ubuntu
            .certificates
            .iter()
            .filter(|certificate| usable_primary(certificate, now).is_ok())
            .map(fingerprint)
            .collect();
        // The archive's key of 2012 certifies itself with SHA-1.
        assert_eq!(
            usable,
            [
                "843938DF228D22F7B3742BC0D94AA3F0EFE21092",
                "F6ECB3762474EDA9D21B7022871920D1991BC93C"
            ]
        );
        // In 2100 all of Debian's have expired.
        let late = UNIX_EPOCH + Duration::from_secs(4_102_444_800);
        for certificate in &keyring.certificates {
            let reason = usable_primary(certificate, late).expect_err("expired");
            assert!(reason.ends_with("has expired"), "{reason}");
        }
    }

    #[test]
    fn packets_of_trust_are_left_out() {
        for (bytes, expected) in [
            (&[][..], &[][..]),
            // Old and new headers; the second is one of trust.
            (
                &[0x88, 1, 7, 0xb0, 2, 0, 0, 0x89, 0, 1, 9],
                &[0x88, 1, 7, 0x89, 0, 1, 9],
            ),
            (
                &[0xcc, 1, 0, 0xcd, 1, 5, 0xcc, 255, 0, 0, 0, 1, 0],
                &[0xcd, 1, 5],
            ),
            // Cut off, of no length, no packet.
            (&[0xb0, 9, 0], &[0xb0, 9, 0]),
            (&[0xb3, 0], &[0xb3, 0]),
            (&[0x12, 0xb0, 0], &[0x12, 0xb0, 0]),
            (
                &[0xcc, 255, 0xff, 0xff, 0xff, 0xff],
                &[0xcc, 255, 0xff, 0xff, 0xff, 0xff],
            ),
        ] {
            assert_eq!(without_trust(bytes), expected, "{bytes:x?}");
        }
        let mut long = vec![0xcc, 192, 8];
        long.extend([0; 200]);
        long.push(0x88);
        assert_eq!(without_trust(&long), [0x88]);
    }

    #[test]
    fn rubbish_is_an_error_not_a_panic() {
        for bytes in [
            &b""[..],
            b"\0\xff",
            b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nxx\n",
        ] {
            assert!(Keyring::parse("k", bytes).is_err());
        }
        let keyring = Keyring::debian().expect("the embedded keyring is valid");
        for bytes in [
            &b""[..],
            b"Origin: Debian\n",
            b"-----BEGIN PGP SIGNED MESSAGE-----\n\nx",
        ] {
            let error = keyring
                .verify(bytes, SystemTime::now())
                .expect_err("refused");
            assert!(matches!(error, VerifyError::Format { .. }), "{error}");
        }
    }
}
