//! The real input: which files, and their SHA-256.
//!
//! The tree may be one that somebody works in. What is copied is as much of each file as it had
//! when it was looked at; a file that differs afterwards is looked at once more, and counts as
//! *changed meanwhile* if it does not have its own old hash any more.

use super::talk::Job;
use crate::failure::{FAILED, Failure};
use ignore::WalkBuilder;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The most that is copied.
pub(super) const BYTES_MAX: u64 = 200 << 20;
/// The most files that are copied.
const FILES_MAX: usize = 20_000;
/// How many files a generated tree has.
const GENERATED_FILES: u64 = 300;

pub(super) type Hash = [u8; 32];

/// Files below a directory, and their hashes.
#[derive(Debug)]
pub(super) struct Tree {
    /// Where they are.
    pub(super) root: PathBuf,
    /// Path below the root, bytes, permission bits, hash; in order of their paths.
    pub(super) files: Vec<Entry>,
    /// All together.
    pub(super) bytes: u64,
    /// Files that were left out: neither regular nor a directory, unreadable, or not UTF-8.
    pub(super) skipped: usize,
    /// Whether there was more than is copied.
    pub(super) cut: bool,
}

/// One file.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) mode: u32,
    pub(super) hash: Hash,
}

/// How two copies of a tree compare.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// Files with the same SHA-256.
    pub(super) same: usize,
    /// Files whose original changed while it was copied.
    pub(super) changed: Vec<String>,
    /// The others.
    pub(super) different: Vec<String>,
}

impl Tree {
    /// The files below `root` that its ignore rules leave, but for those in `not`.
    pub(super) fn walk(root: &Path, bytes_max: u64, not: &Path) -> Result<Self, Failure> {
        let root = root
            .canonicalize()
            .map_err(|error| Failure::system(format!("the tree {}", root.display()), error))?;
        if !root.is_dir() {
            return Err(Failure::new(FAILED, format!("{} is no directory", root.display())));
        }
        let not = not.to_path_buf();
        let mut walk = WalkBuilder::new(&root);
        walk.hidden(false)
            .require_git(false)
            .follow_links(false)
            .same_file_system(true)
            .sort_by_file_name(|a, b| a.cmp(b))
            .filter_entry(move |entry| {
                // Besides what the ignore rules leave out: what git and cargo keep for themselves.
                let git = entry.file_name() == ".git";
                let built =
                    entry.file_name() == "target" && entry.path().join("CACHEDIR.TAG").exists();
                entry.depth() == 0 || !(git || built || entry.path() == not)
            });
        let mut tree = Self { root, files: Vec::new(), bytes: 0, skipped: 0, cut: false };
        for entry in walk.build() {
            let Ok(entry) = entry else {
                tree.skipped += 1;
                continue;
            };
            let kind = entry.file_type();
            if kind.is_some_and(|kind| kind.is_dir()) {
                continue;
            }
            let regular = kind.is_some_and(|kind| kind.is_file());
            let path = entry.path().strip_prefix(&tree.root).ok().and_then(Path::to_str);
            let (Some(path), Ok(known), true) = (path, entry.metadata(), regular) else {
                tree.skipped += 1;
                continue;
            };
            if tree.bytes + known.len() > bytes_max || tree.files.len() >= FILES_MAX {
                tree.cut = true;
                continue;
            }
            tree.bytes += known.len();
            tree.files.push(Entry {
                path: path.to_owned(),
                bytes: known.len(),
                mode: known.mode() & 0o777,
                hash: Hash::default(),
            });
        }
        tree.hash();
        Ok(tree)
    }

    /// A generated tree in `root`, which is made.
    pub(super) fn generate(root: &Path) -> Result<Self, Failure> {
        let failed = |error| Failure::system("generating a tree", error);
        let mut random = Random(1);
        make_directory(root).map_err(failed)?;
        for number in 0..GENERATED_FILES {
            let above = root.join(format!("{:02}", number % 17));
            let directory = above.join(format!("{}", number % 3));
            make_directory(&above).and_then(|()| make_directory(&directory)).map_err(failed)?;
            // Sizes over all magnitudes, the empty file among them.
            let bytes = random.next() % (1 << (random.next() % 20));
            write_random(&directory.join(format!("file-{number}")), bytes, number)
                .map_err(failed)?;
        }
        Self::walk(root, BYTES_MAX, Path::new(""))
    }

    /// Hashes all files; those that cannot be read are left out.
    fn hash(&mut self) {
        let hashes = hash_all(&self.files, |entry| self.root.join(&entry.path));
        let mut kept = Vec::with_capacity(self.files.len());
        for (entry, hash) in std::mem::take(&mut self.files).into_iter().zip(hashes) {
            match hash {
                Some(hash) => kept.push(Entry { hash, ..entry }),
                None => {
                    self.skipped += 1;
                    self.bytes -= entry.bytes;
                }
            }
        }
        self.files = kept;
    }

    /// What to copy, as `prefix`/… at the file server; `local` is where it is, or is to be, here.
    pub(super) fn jobs(&self, local: &Path, prefix: &str) -> Vec<Job> {
        self.files
            .iter()
            .map(|entry| Job {
                local: local.join(&entry.path),
                remote: format!("{prefix}/{}", entry.path),
                bytes: entry.bytes,
                // The copy must stay readable for the one who made it.
                mode: entry.mode | 0o600,
            })
            .collect()
    }

    /// The directories that hold the files, parents first, each behind `prefix`, which is the first.
    pub(super) fn directories(&self, prefix: &str) -> Vec<String> {
        let mut found = BTreeSet::from([prefix.to_owned()]);
        for entry in &self.files {
            for (end, _) in entry.path.match_indices('/') {
                found.insert(format!("{prefix}/{}", &entry.path[..end]));
            }
        }
        found.into_iter().collect()
    }

    /// Compares the tree with its copy in `copy`.
    pub(super) fn compare(&self, copy: &Path) -> Comparison {
        let hashes = hash_all(&self.files, |entry| copy.join(&entry.path));
        let mut result = Comparison::default();
        for (entry, hash) in self.files.iter().zip(hashes) {
            let at = copy.join(&entry.path);
            let longer = std::fs::metadata(at).is_ok_and(|known| known.len() != entry.bytes);
            if hash == Some(entry.hash) && !longer {
                result.same += 1;
            } else if hash_file(&self.root.join(&entry.path), entry.bytes) == Some(entry.hash) {
                result.different.push(entry.path.clone());
            } else {
                result.changed.push(entry.path.clone());
            }
        }
        result
    }
}

/// Makes a directory if it is not there. Not those above it: when everything is being taken down,
/// they must not come back.
pub(super) fn make_directory(path: &Path) -> std::io::Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Writes a file of pseudo-random bytes.
pub(super) fn write_random(path: &Path, bytes: u64, seed: u64) -> std::io::Result<()> {
    let mut random = Random(seed.wrapping_mul(2) | 1);
    let mut file = std::io::BufWriter::new(File::create(path)?);
    for _ in 0..bytes / 8 {
        file.write_all(&random.next().to_le_bytes())?;
    }
    file.write_all(&random.next().to_le_bytes()[..(bytes % 8) as usize])?;
    file.flush()?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

/// Xorshift: the same tree each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// The hashes of all entries, `None` for those that cannot be read, by all processors.
fn hash_all(entries: &[Entry], at: impl Fn(&Entry) -> PathBuf + Sync) -> Vec<Option<Hash>> {
    let results = Mutex::new(vec![None; entries.len()]);
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(8));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                // Each place is handed out once, and the results are behind the lock.
                while let Some(place) = Some(next.fetch_add(1, Relaxed))
                    && let Some(entry) = entries.get(place)
                {
                    let hash = hash_file(&at(entry), entry.bytes);
                    if let Ok(mut results) = results.lock() {
                        results[place] = hash;
                    }
                }
            });
        }
    });
    results.into_inner().unwrap_or_default()
}

/// The SHA-256 of the first `bytes` of a file; `None` if it cannot be read or is shorter.
pub(super) fn hash_file(path: &Path, bytes: u64) -> Option<Hash> {
    let mut file = File::open(path).ok()?.take(bytes);
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return (file.limit() == 0).then(|| digest.finalize().into()),
            Ok(read) => digest.update(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Tree, write_random};
    use std::fs;
    use std::path::Path;

    #[test]
    fn ignore_rules_and_bounds_are_honoured() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |path: &str| directory.path().join(path);
        for made in ["sub/deep", "target", ".git", "not"] {
            fs::create_dir_all(at(made)).expect("a directory");
        }
        fs::write(at(".gitignore"), "*.log\n").expect("a file");
        fs::write(at("target/CACHEDIR.TAG"), "").expect("a file");
        for path in ["a", "sub/deep/b", "x.log", "target/c", ".git/d", "not/e"] {
            fs::write(at(path), path).expect("a file");
        }
        let tree = Tree::walk(directory.path(), 1 << 20, &at("not")).expect("a tree");
        let paths: Vec<_> = tree.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, [".gitignore", "a", "sub/deep/b"]);
        assert_eq!(tree.directories("in"), ["in", "in/sub", "in/sub/deep"]);
        assert!(!tree.cut);
        let tree = Tree::walk(directory.path(), 7, &at("not")).expect("a tree");
        assert!(tree.cut && tree.bytes <= 7, "{tree:?}");
        assert!(Tree::walk(&at("a"), 7, Path::new("")).is_err(), "a file is no tree");
    }

    #[test]
    fn a_copy_that_differs_is_found_and_a_change_of_the_original_told_apart() {
        let directory = tempfile::tempdir().expect("a directory");
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        for root in [&from, &to] {
            fs::create_dir(root).expect("a directory");
            for (seed, name) in ["same", "longer", "other", "changed"].iter().enumerate() {
                write_random(&root.join(name), 1001, seed as u64).expect("a file");
            }
        }
        let tree = Tree::walk(&from, 1 << 20, Path::new("")).expect("a tree");
        assert_eq!(tree.compare(&to).same, 4);
        write_random(&to.join("other"), 1001, 99).expect("a file");
        fs::OpenOptions::new()
            .append(true)
            .open(to.join("longer"))
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"!"))
            .expect("a file");
        write_random(&from.join("changed"), 1001, 99).expect("a file");
        write_random(&to.join("changed"), 1001, 98).expect("a file");
        let compared = tree.compare(&to);
        assert_eq!(compared.same, 1);
        assert_eq!(compared.different, ["longer", "other"]);
        assert_eq!(compared.changed, ["changed"]);
    }

    #[test]
    fn a_generated_tree_is_the_same_each_time() {
        let directory = tempfile::tempdir().expect("a directory");
        let one = Tree::generate(&directory.path().join("one")).expect("a tree");
        let two = Tree::generate(&directory.path().join("two")).expect("a tree");
        assert!(one.files.len() > 100);
        assert_eq!(one.compare(&two.root).same, one.files.len());
    }
}
