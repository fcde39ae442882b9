//! Encryption at rest. It is always on.
//!
//! ```text
//! master key (32 bytes; a file or the environment, never in the data folder)
//!    └─ seals ─ data key (random, in the file `keyring`, with its number)
//!                  └─ HKDF-SHA256 per purpose ─ "log", "state", …
//! ```
//! The data key is what data is sealed with, so that the master key can be
//! changed without rewriting the data, and data keys can follow one another
//! under their numbers. (Only the first is used so far.)
//!
//! The cipher is AES-256-GCM-SIV (RFC 8452): should a nonce ever be used twice,
//! all that is revealed is whether two messages are equal.

use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use polity_base::seams::Entropy;
use zeroize::Zeroizing;

use crate::disk::{Disk, OpenOptions, read_exact_at};
use crate::error::Error;

/// Bytes of a nonce.
pub const NONCE_LEN: usize = 12;
/// Bytes that sealing adds: the authentication tag.
pub const TAG_LEN: usize = 16;

const KEY_LEN: usize = 32;

/// The key that seals all others. Lives outside the data folder; erased from
/// memory when dropped.
pub struct MasterKey(Zeroizing<[u8; KEY_LEN]>);

impl MasterKey {
    /// A fresh key.
    pub fn generate(entropy: &dyn Entropy) -> MasterKey {
        let mut key = Zeroizing::new([0; KEY_LEN]);
        entropy.fill(&mut *key);
        MasterKey(key)
    }

    /// The key in a file that holds 64 hexadecimal digits.
    pub fn from_file(path: &Path) -> Result<MasterKey, Error> {
        let source_name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => MasterKey::from_hex(&Zeroizing::new(text), &source_name),
            Err(e) => Err(Error::BadKey { source_name, what: e.to_string() }),
        }
    }

    /// The key in an environment variable that holds 64 hexadecimal digits.
    pub fn from_env(variable: &str) -> Result<MasterKey, Error> {
        let source_name = format!("environment variable {variable}");
        match std::env::var(variable) {
            Ok(text) => MasterKey::from_hex(&Zeroizing::new(text), &source_name),
            Err(e) => Err(Error::BadKey { source_name, what: e.to_string() }),
        }
    }

    /// The key that `text` spells; `source_name` says in errors where it is from.
    pub fn from_hex(text: &str, source_name: &str) -> Result<MasterKey, Error> {
        let bad = |what: String| Error::BadKey { source_name: source_name.to_owned(), what };
        let digits = text.trim().as_bytes();
        if digits.len() != 2 * KEY_LEN {
            return Err(bad(format!("expected {} hexadecimal digits, found {} characters", 2 * KEY_LEN, digits.len())));
        }
        let mut key = Zeroizing::new([0; KEY_LEN]);
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            for &digit in pair {
                let value = char::from(digit).to_digit(16).ok_or_else(|| bad("not a hexadecimal digit".into()))?;
                *byte = *byte << 4 | value as u8;
            }
        }
        Ok(MasterKey(key))
    }

    /// The key as 64 hexadecimal digits, for a key file.
    pub fn to_hex(&self) -> Zeroizing<String> {
        use std::fmt::Write;
        let mut text = Zeroizing::new(String::with_capacity(2 * KEY_LEN));
        for byte in self.0.iter() {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    /// The key in the file at `path`, which is created with a fresh key, readable
    /// by its owner only, if it does not exist. For development clusters: a key
    /// beside the data protects nothing.
    pub fn from_file_or_generate(path: &Path, entropy: &dyn Entropy) -> Result<MasterKey, Error> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let key = MasterKey::generate(entropy);
        let written =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).and_then(|mut file| {
                file.write_all(key.to_hex().as_bytes())?;
                file.write_all(b"\n")?;
                file.sync_all()
            });
        match written {
            Ok(()) => Ok(key),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => MasterKey::from_file(path),
            Err(e) => Err(Error::io("write", &path.display().to_string(), e)),
        }
    }
}

/// The file that holds the sealed data key.
///
/// ```text
/// "POLITYK1" | key number u32 | nonce 12 | sealed data key 32 + tag 16 | crc32c u32
/// ```
/// Integers are little endian; the checksum covers all before it, so that a
/// wrong master key and a damaged file are told apart.
const KEYRING_FILE: &str = "keyring";
const KEYRING_TEMPORARY: &str = "keyring.new";
const KEYRING_MAGIC: &[u8; 8] = b"POLITYK1";
const KEYRING_HEAD: usize = 12;
const KEYRING_LEN: usize = KEYRING_HEAD + NONCE_LEN + KEY_LEN + TAG_LEN + 4;

/// The data keys of a folder.
pub struct Keyring {
    number: u32,
    key: Zeroizing<[u8; KEY_LEN]>,
}

impl Keyring {
    /// The keyring of the folder, created if the folder is new.
    pub fn open(disk: &dyn Disk, master: &MasterKey, entropy: &dyn Entropy) -> Result<Keyring, Error> {
        match disk.exists(KEYRING_FILE).map_err(|e| Error::io("open", KEYRING_FILE, e))? {
            true => Keyring::read(disk, master),
            false => Keyring::create(disk, master, entropy),
        }
    }

    fn read(disk: &dyn Disk, master: &MasterKey) -> Result<Keyring, Error> {
        let failed = |e| Error::io("read", KEYRING_FILE, e);
        let file = disk.open(KEYRING_FILE, OpenOptions::EXISTING).map_err(failed)?;
        let mut bytes = Zeroizing::new([0; KEYRING_LEN]);
        let length = file.len().map_err(failed)?;
        if length != KEYRING_LEN as u64 {
            let what = format!("the keyring has {length} bytes, not {KEYRING_LEN}");
            return Err(Error::corrupt(KEYRING_FILE, length.min(KEYRING_LEN as u64), what));
        }
        read_exact_at(&*file, 0, &mut *bytes).map_err(failed)?;
        let (body, checksum) = bytes.split_at(KEYRING_LEN - 4);
        if !body.starts_with(KEYRING_MAGIC) {
            return Err(Error::corrupt(KEYRING_FILE, 0, "not a keyring, or of an unknown version"));
        }
        if crc32c::crc32c(body).to_le_bytes() != checksum {
            return Err(Error::corrupt(KEYRING_FILE, 0, "the checksum does not match"));
        }
        let (head, rest) = body.split_at(KEYRING_HEAD);
        let (nonce, rest) = rest.split_at(NONCE_LEN);
        let (sealed, tag) = rest.split_at(KEY_LEN);
        let mut key = Zeroizing::new([0; KEY_LEN]);
        key.copy_from_slice(sealed);
        let nonce = nonce.try_into().map_err(|_| Error::WrongKey)?;
        let tag = tag.try_into().map_err(|_| Error::WrongKey)?;
        Sealer::new(&master.0, "keyring")?
            .open_in_place(nonce, head, &mut *key, tag)
            .map_err(|NotAuthentic| Error::WrongKey)?;
        let number = head[8..].iter().rev().fold(0, |n, &b| n << 8 | u32::from(b));
        Ok(Keyring { number, key })
    }

    fn create(disk: &dyn Disk, master: &MasterKey, entropy: &dyn Entropy) -> Result<Keyring, Error> {
        let failed = |e| Error::io("write", KEYRING_FILE, e);
        let names = disk.list().map_err(failed)?;
        if let Some(orphan) = names.iter().find(|n| n.starts_with("log-") || n.starts_with("state")) {
            // A fresh key would make the loss final.
            return Err(Error::corrupt(KEYRING_FILE, 0, format!("the keyring is missing, but {orphan} exists")));
        }
        let mut keyring = Keyring { number: 1, key: Zeroizing::new([0; KEY_LEN]) };
        entropy.fill(&mut *keyring.key);
        let mut nonce = [0; NONCE_LEN];
        entropy.fill(&mut nonce);

        let mut bytes = Zeroizing::new(Vec::with_capacity(KEYRING_LEN));
        bytes.extend_from_slice(KEYRING_MAGIC);
        bytes.extend_from_slice(&keyring.number.to_le_bytes());
        let mut sealed = keyring.key.clone();
        let tag = Sealer::new(&master.0, "keyring")?.seal_in_place(&nonce, &bytes, &mut *sealed)?;
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&*sealed);
        bytes.extend_from_slice(&tag);
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());

        let file = disk.open(KEYRING_TEMPORARY, OpenOptions::FRESH).map_err(failed)?;
        file.write_at(0, &bytes).map_err(failed)?;
        file.sync().map_err(failed)?;
        disk.rename(KEYRING_TEMPORARY, KEYRING_FILE).map_err(failed)?;
        disk.sync_dir().map_err(failed)?;
        Ok(keyring)
    }

    /// The number of the data key in use.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The sealer for one purpose. Sealers of different purposes have keys that
    /// say nothing about each other.
    pub fn sealer(&self, purpose: &str) -> Result<Sealer, Error> {
        Sealer::new(&self.key, purpose)
    }
}

/// What was opened is not what was sealed: damaged, moved, or under another key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the data is not what was sealed")]
pub struct NotAuthentic;

/// Seals and opens data with one derived key.
pub struct Sealer {
    key: LessSafeKey,
}

impl Sealer {
    /// A sealer under a key that is drawn now and kept nowhere: for what nobody
    /// needs after a restart.
    pub fn passing(entropy: &dyn Entropy, purpose: &str) -> Result<Sealer, Error> {
        let mut secret = Zeroizing::new([0; KEY_LEN]);
        entropy.fill(&mut *secret);
        Sealer::new(&secret, purpose)
    }

    fn new(secret: &[u8; KEY_LEN], purpose: &str) -> Result<Sealer, Error> {
        let info = [b"polity at rest 1: ".as_slice(), purpose.as_bytes()];
        let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"polity").extract(secret);
        let derived =
            root.expand(&info, &AES_256_GCM_SIV).map_err(|_| Error::Internal("key derivation failed".into()))?;
        Ok(Sealer { key: LessSafeKey::new(UnboundKey::from(derived)) })
    }

    /// Encrypts `data` where it lies and returns the tag that proves it, together
    /// with `associated` data that is not stored. A nonce must not be used again.
    pub fn seal_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        data: &mut [u8],
    ) -> Result<[u8; TAG_LEN], Error> {
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(*nonce), Aad::from(associated), data)
            .map_err(|_| Error::Internal("sealing failed".into()))?;
        tag.as_ref().try_into().map_err(|_| Error::Internal("a tag of unexpected length".into()))
    }

    /// Decrypts `data` where it lies. On error its contents are lost.
    pub fn open_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        associated: &[u8],
        data: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), NotAuthentic> {
        self.key
            .open_in_place_separate_tag(Nonce::assume_unique_for_key(*nonce), Aad::from(associated), tag, data)
            .map(|_| ())
            .map_err(|_| NotAuthentic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Crash, DiskFile, MemoryDisk};
    use crate::log::testing::CountingEntropy;

    fn keyring_bytes(disk: &MemoryDisk) -> (std::sync::Arc<dyn DiskFile>, Vec<u8>) {
        let file = disk.open(KEYRING_FILE, OpenOptions::EXISTING).unwrap();
        let mut bytes = vec![0; KEYRING_LEN];
        read_exact_at(&*file, 0, &mut bytes).unwrap();
        (file, bytes)
    }

    #[test]
    fn a_keyring_opens_with_its_master_key_only() {
        let (disk, entropy) = (MemoryDisk::new(1), CountingEntropy::default());
        let master = MasterKey::generate(&entropy);
        let first = Keyring::open(&disk, &master, &entropy).unwrap();
        let again = Keyring::open(&disk, &MasterKey::from_hex(&master.to_hex(), "test").unwrap(), &entropy).unwrap();
        assert_eq!(first.key, again.key);
        assert_eq!(first.number(), 1);
        let other = MasterKey::generate(&entropy);
        assert!(matches!(Keyring::open(&disk, &other, &entropy), Err(Error::WrongKey)));
        let (_, bytes) = keyring_bytes(&disk);
        assert!(!bytes.windows(8).any(|w| w == &first.key[..8]), "the data key is sealed");
    }

    #[test]
    fn every_bit_flip_of_the_keyring_is_detected() {
        let (disk, entropy) = (MemoryDisk::new(1), CountingEntropy::default());
        let master = MasterKey::generate(&entropy);
        Keyring::open(&disk, &master, &entropy).unwrap();
        for bit in 0..KEYRING_LEN * 8 {
            disk.flip(KEYRING_FILE, bit / 8, bit % 8);
            let found = Keyring::open(&disk, &master, &entropy).err();
            assert!(matches!(found, Some(Error::Corrupt { .. })), "bit {bit}: {found:?}");
            disk.flip(KEYRING_FILE, bit / 8, bit % 8);
        }
    }

    #[test]
    fn a_crash_while_the_keyring_is_made_leaves_a_folder_that_opens() {
        for seed in 0..40 {
            for operations in 0..6 {
                let (disk, entropy) = (MemoryDisk::new(seed), CountingEntropy::default());
                let master = MasterKey::generate(&entropy);
                disk.crash_after(operations);
                let made = Keyring::open(&disk, &master, &entropy).ok();
                let disk = disk.restart(Crash::Torn);
                let again = Keyring::open(&disk, &master, &entropy).unwrap();
                if let Some(made) = made {
                    assert_eq!(made.key, again.key, "seed {seed}, crash after {operations}");
                }
            }
        }
    }

    #[test]
    fn a_missing_keyring_is_not_replaced_when_data_exists() {
        let (disk, entropy) = (MemoryDisk::new(1), CountingEntropy::default());
        disk.open("log-0000000001", OpenOptions::CREATE).unwrap();
        let refused = Keyring::open(&disk, &MasterKey::generate(&entropy), &entropy);
        assert!(matches!(refused, Err(Error::Corrupt { .. })));
    }

    #[test]
    fn what_is_sealed_opens_only_unchanged_and_in_its_place() {
        let keyring = Keyring { number: 1, key: Zeroizing::new([7; KEY_LEN]) };
        let sealer = keyring.sealer("log").unwrap();
        let nonce = [1; NONCE_LEN];
        let mut data = *b"attack at dawn";
        let tag = sealer.seal_in_place(&nonce, b"here", &mut data).unwrap();
        assert_ne!(&data, b"attack at dawn");
        assert_eq!(sealer.open_in_place(&nonce, b"there", &mut data.clone(), &tag), Err(NotAuthentic));
        assert_eq!(sealer.open_in_place(&[2; NONCE_LEN], b"here", &mut data.clone(), &tag), Err(NotAuthentic));
        let other = keyring.sealer("state").unwrap();
        assert_eq!(other.open_in_place(&nonce, b"here", &mut data.clone(), &tag), Err(NotAuthentic));
        sealer.open_in_place(&nonce, b"here", &mut data, &tag).unwrap();
        assert_eq!(&data, b"attack at dawn");
    }

    #[test]
    fn key_files_are_made_once_and_bad_ones_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let (path, entropy) = (folder.path().join("key"), CountingEntropy::default());
        let made = MasterKey::from_file_or_generate(&path, &entropy).unwrap();
        let read = MasterKey::from_file_or_generate(&path, &entropy).unwrap();
        assert_eq!(made.to_hex(), read.to_hex());
        std::fs::write(&path, "abc").unwrap();
        let refused = MasterKey::from_file(&path).err().unwrap().to_string();
        assert!(refused.contains("64 hexadecimal digits") && refused.contains("key"), "{refused}");
        assert!(MasterKey::from_env("POLITY_NO_SUCH_VARIABLE").is_err());
        assert!(MasterKey::from_hex(&"g".repeat(64), "x").is_err());
    }
}
