//! Packed weights in files: the same results, and no belief in what is damaged, of others, or another model's.

use std::fs::{self, File as SystemFile};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::support::{self, encode_over, open};
use impasto::encode::{Extent, Layers, Options, Target, encode};
use impasto::{Bases, Checkpoint, CheckpointWeights, Cut, File, FileWeights};
use impasto_model::{ModelError, Want, WeightSource};
use impasto_runtime::{Model, PackError, Packs, Residence, RunOptions};

const TOKENS: [u32; 12] = [5, 17, 300, 2, 44, 800, 1, 9, 73, 512, 6, 31];

/// What was reported in this thread or by its writers. Tests that look at it hold [`TURN`].
static REPORTED: Mutex<Vec<String>> = Mutex::new(Vec::new());
static TURN: Mutex<()> = Mutex::new(());

fn report(text: &str) {
    REPORTED.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
}

fn reported() -> Vec<String> {
    std::mem::take(&mut REPORTED.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A model file, and a folder for packed weights beside it.
struct Setting {
    folder: tempfile::TempDir,
    file: PathBuf,
}

impl Setting {
    fn new(options: &Options) -> Setting {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tiny.impasto");
        let model = Checkpoint::open(&support::Model::wide_tiny().path).expect("a good checkpoint");
        encode(&model, &file, options, &|_| ControlFlow::Continue(())).expect("encodes");
        Setting { folder, file }
    }

    fn layered() -> Setting {
        let layers = Layers { below: vec![Extent::BitsPerWeight(3.0)], exact: true, ..Layers::default() };
        Setting::new(&Options { layers, ..Options::new(Target::BitsPerWeight(4.5)) })
    }

    fn packs(&self) -> Packs {
        Packs { report, ..Packs::new(self.folder.path().join("packs")) }
    }

    fn open(&self, cut: Option<Cut>) -> Arc<File> {
        let mut file = open(&self.file);
        cut.iter().for_each(|cut| file.cut(cut).expect("cuts"));
        Arc::new(file)
    }

    fn load_cut(&self, packs: Option<Packs>, cut: Option<Cut>) -> Model {
        let weights = FileWeights::new(self.open(cut)).expect("assets");
        let model = Model::load(&weights, &RunOptions { threads: 2, packs, ..RunOptions::default() }).expect("a model");
        model.runtime().expect("packed").wait_for_pack();
        model
    }

    fn load(&self) -> Model {
        self.load_cut(Some(self.packs()), None)
    }

    /// The files of packed weights, and everything else in their folder.
    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.packs().folder).into_iter().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
        paths.sort();
        paths
    }

    /// The only file of packed weights.
    fn file(&self) -> PathBuf {
        let [path] = &self.files()[..] else { panic!("{:?}", self.files()) };
        path.clone()
    }
}

fn logits(model: &Model) -> Vec<u32> {
    let mut cache = model.network().new_cache(0).expect("a cache");
    let logits = model.network().forward(&mut cache, &TOKENS, Want::All).expect("runs");
    logits.into_iter().map(f32::to_bits).collect()
}

/// Replaces a file, as another process would: what is mapped stays as it is.
fn replace(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).expect("removed");
    fs::write(path, bytes).expect("written");
}

#[test]
fn mapped_weights_give_the_same_results() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let settings = [
        (Setting::new(&Options::new(Target::Lossless)), None),
        (Setting::new(&Options::new(Target::BitsPerWeight(4.0))), None),
        (Setting::layered(), None),
        (Setting::layered(), Some(Cut::Layer(1))),
    ];
    for (setting, cut) in settings {
        let without = setting.load_cut(None, cut.clone());
        let cold = setting.load_cut(Some(setting.packs()), cut.clone());
        let warm = setting.load_cut(Some(setting.packs()), cut.clone());
        assert_eq!([&without, &cold, &warm].map(|model| model.load_times().cached), [false, false, true]);
        assert!(logits(&without) == logits(&cold) && logits(&cold) == logits(&warm));
        assert_eq!(warm.memory_bytes(), cold.memory_bytes());
        assert_eq!(warm.warnings(), cold.warnings());
        let packing = |model: &Model| model.runtime().expect("packed").packing();
        assert_eq!(packing(&warm), packing(&cold));
        // The file may go while it is mapped.
        setting.files().iter().for_each(|path| fs::remove_file(path).expect("removed"));
        assert!(logits(&warm) == logits(&cold));
    }
    assert_eq!(reported(), [""; 0]);
}

#[test]
fn each_part_of_a_file_has_its_own_and_no_other_is_taken() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let setting = Setting::layered();
    let whole = setting.load();
    let of_whole = setting.file();
    let base = setting.load_cut(Some(setting.packs()), Some(Cut::Layer(1)));
    let files = setting.files();
    let of_base = files.iter().find(|path| **path != of_whole).expect("another file");
    assert!(files.len() == 2 && !base.load_times().cached && logits(&base) != logits(&whole));
    // Under the name of the other.
    fs::rename(of_base, &of_whole).expect("renamed");
    let again = setting.load();
    assert!(!again.load_times().cached && logits(&again) == logits(&whole));
    assert!(reported().concat().contains("those of another model, or of another part of it"));
    assert!(setting.load().load_times().cached, "it was replaced");
}

#[test]
fn damage_is_found_wherever_it_is() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let setting = Setting::new(&Options::new(Target::BitsPerWeight(4.0)));
    let expected = logits(&setting.load());
    let good = fs::read(setting.file()).expect("read");
    let index = usize::try_from(u64::from_ne_bytes(good[16..24].try_into().expect("8 bytes"))).expect("a place");
    let mut places = vec![0, 7, 8, 16, 24, 32, 63, 4096, 4097, index - 1, index, index + 1, good.len() - 1];
    places.extend((0..20).map(|i| 4096 + (index - 4096) / 20 * i + i));
    for place in places {
        let mut bytes = good.clone();
        bytes[place] ^= 1 << (place % 8);
        replace(&setting.file(), &bytes);
        let model = setting.load();
        assert!(!model.load_times().cached && logits(&model) == expected, "byte {place}");
        let said = reported().concat();
        assert!(said.contains("damaged") || said.contains("of another version"), "byte {place}: {said:?}");
        assert!(fs::read(setting.file()).expect("read") == good, "byte {place}: it was not replaced");
    }
    for length in [0, 1, 63, 64, 4095, 4096, 5000, index - 1, index, good.len() - 1] {
        replace(&setting.file(), &good[..length]);
        let model = setting.load();
        assert!(!model.load_times().cached && logits(&model) == expected, "{length} bytes");
        assert!(reported().concat().contains("not used"), "{length} bytes");
    }
    replace(&setting.file(), &[&good[..], b"more"].concat());
    assert!(!setting.load().load_times().cached);
    assert_eq!(reported().len(), 1);
    assert!(setting.load().load_times().cached);
}

/// Kernels read zeros then, wherever the cut is, and the pass fails.
#[cfg(unix)]
#[test]
fn a_file_that_becomes_shorter_in_use_is_an_error() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let setting = Setting::new(&Options::new(Target::BitsPerWeight(4.0)));
    let expected = logits(&setting.load());
    let length = fs::metadata(setting.file()).expect("there").len();
    for cut in [0, 4096, 10_001, 100_000, length / 2 + 3, length - 1] {
        let warm = setting.load();
        assert!(warm.load_times().cached && logits(&warm) == expected);
        SystemFile::options().write(true).open(setting.file()).expect("opens").set_len(cut).expect("cut");
        let mut cache = warm.network().new_cache(0).expect("a cache");
        let error = warm.network().forward(&mut cache, &TOKENS, Want::All).expect_err("it is shorter");
        assert!(matches!(error, ModelError::Mapped(_)) && cache.is_empty(), "{cut}: {error}");
        assert!(!setting.load().load_times().cached);
    }
    reported();
}

/// Files of another version, and files with all the right hashes whose index leads elsewhere.
#[test]
fn versions_and_hostile_indices_are_refused() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let setting = Setting::new(&Options::new(Target::BitsPerWeight(4.0)));
    let expected = logits(&setting.load());
    let good = fs::read(setting.file()).expect("read");
    let at = usize::try_from(u64::from_ne_bytes(good[16..24].try_into().expect("8 bytes"))).expect("a place");
    let index: serde_json::Value = serde_json::from_slice(&good[at..]).expect("JSON");
    let with = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut index = index.clone();
        change(&mut index);
        let index = serde_json::to_vec(&index).expect("JSON");
        let head = [&good[..24], &(index.len() as u64).to_ne_bytes()].concat();
        let hash = blake3::hash(&[&head[..], &index].concat());
        [&head, &hash.as_bytes()[..], &good[64..at], &index].concat()
    };
    let mut layout = good.clone();
    layout[8] += 1;
    let first = |name: &'static str, to: u64| with(&move |index| index["matrices"][0][name] = to.into());
    let cases = [
        ("of another version", layout),
        ("of another version", with(&|index| index["version"] = "0.0.0".into())),
        ("of another version", with(&|index| *index = serde_json::Value::Null)),
        ("another model", with(&|index| index["content"][0] = (index["content"][0].as_u64().unwrap_or(0) ^ 1).into())),
        ("another length than its matrices", with(&|index| index["pieces"] = serde_json::json!([]))),
        (
            "a matrix has another hash",
            with(&|index| index["pieces"][0][0] = (index["pieces"][0][0].as_u64().unwrap_or(0) ^ 1).into()),
        ),
        ("a matrix is not there", with(&|index| index["matrices"][0]["name"] = "x".into())),
        ("a matrix is not one", first("start", u64::MAX)),
        ("a matrix is not one", first("start", 0)),
        ("a matrix is not one", first("start", 4097)),
        ("a matrix is not one", first("end", 1 << 40)),
        ("a matrix is not one", first("end", 4096)),
        (
            "a matrix is not one",
            with(&|index| {
                index["matrices"][0] = {
                    let mut other = index["matrices"][1].clone();
                    other["name"] = index["matrices"][0]["name"].clone();
                    other
                }
            }),
        ),
    ];
    for (says, bytes) in cases {
        replace(&setting.file(), &bytes);
        let model = setting.load();
        let said = reported().concat();
        assert!(!model.load_times().cached && said.contains(says), "{says:?}: {said:?}");
        assert!(logits(&model) == expected && fs::read(setting.file()).expect("read") == good, "{says:?}");
    }
    // The same bytes, made anew, are believed: nothing else was wrong.
    replace(&setting.file(), &with(&|_| {}));
    assert!(setting.load().load_times().cached);
}

#[cfg(unix)]
#[test]
fn what_others_can_write_is_not_believed() {
    use std::os::unix::fs::PermissionsExt;

    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let setting = Setting::new(&Options::new(Target::Lossless));
    setting.load();
    let (file, folder) = (setting.file(), setting.packs().folder);
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permitted");
    mode(&file, 0o664);
    assert!(!setting.load().load_times().cached);
    assert!(reported().concat().contains("nobody else may write"));
    assert!(setting.load().load_times().cached, "it was replaced");
    mode(&folder, 0o777);
    assert!(!setting.load().load_times().cached);
    let [unread, unwritten] = &reported()[..] else { panic!("two reports") };
    assert!(
        unread.contains("not used") && unwritten.contains("not kept") && unwritten.contains("nobody else may write")
    );
    mode(&folder, 0o755);
    assert!(setting.load().load_times().cached);
    // A folder that is a file.
    fs::remove_dir_all(&folder).expect("removed");
    fs::write(&folder, "").expect("written");
    assert!(!setting.load().load_times().cached);
    assert!(reported().concat().contains("not kept"));
}

#[test]
fn the_limit_removes_what_was_used_longest_ago() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let setting = Setting::layered();
    let length = |path: &Path| fs::metadata(path).expect("there").len();
    setting.load();
    let ours = setting.file();
    let folder = setting.packs().folder;
    // Files that another process left, the oldest last.
    let others: Vec<PathBuf> = (0..4u64)
        .map(|age| {
            let path = folder.join(format!("{age}.pack"));
            fs::write(&path, vec![0; 1000]).expect("written");
            let file = SystemFile::options().write(true).open(&path).expect("opens");
            file.set_modified(SystemTime::now() - Duration::from_secs(60 * (age + 1))).expect("set");
            path
        })
        .collect();
    fs::write(folder.join("notes.txt"), vec![0; 5000]).expect("written");
    let old = SystemFile::options().write(true).open(&ours).expect("opens");
    old.set_modified(SystemTime::UNIX_EPOCH).expect("set");
    let base = setting.load_cut(None, Some(Cut::Layer(1)));
    let bake = |limit| base.runtime().expect("packed").bake(&Packs { limit, ..setting.packs() });
    let pack = bake(u64::MAX).expect("written");
    assert_eq!((pack.bytes, setting.files().len()), (length(&pack.path), 7));
    bake(length(&ours) + pack.bytes + 2000).expect("written");
    let are_there = || others.iter().map(|path| path.exists()).collect::<Vec<_>>();
    assert_eq!(are_there(), [true, true, false, false]);
    // Those of this process stay, even above the limit.
    bake(pack.bytes).expect("written");
    assert!(are_there() == [false; 4] && ours.exists() && folder.join("notes.txt").exists());
    let refused = bake(1000).expect_err("too large");
    assert!(matches!(refused, PackError::Limit { limit: 1000, bytes } if bytes > 1000), "{refused}");
    // A use counts.
    assert!(setting.load().load_times().cached);
    let age = fs::metadata(&ours).expect("there").modified().expect("a time").elapsed().expect("past");
    assert!(age < Duration::from_secs(3600), "{age:?}");
    assert_eq!(reported(), [""; 0]);
}

#[test]
fn sources_that_are_not_packed_ahead_say_so() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let setting = Setting::new(&Options::new(Target::Lossless));
    let options = RunOptions { threads: 2, packs: Some(setting.packs()), ..RunOptions::default() };
    let model = support::Model::wide_tiny();
    let checkpoint = Checkpoint::open(&model.path).expect("a good checkpoint");
    let none = |source: &dyn WeightSource| {
        let model = Model::load(source, &options).expect("a model");
        let [said] = &reported()[..] else { panic!("one report") };
        assert!(said.contains("that are no deltas") && setting.files().is_empty(), "{said}");
        let refused = model.runtime().expect("packed").bake(&setting.packs());
        assert!(matches!(refused, Err(PackError::NoContent)));
    };
    none(&CheckpointWeights::new(&checkpoint));
    let delta = setting.folder.path().join("delta.impasto");
    encode_over(&model.path, &delta, Some(&setting.file), Options::new(Target::Lossless));
    none(&FileWeights::new(Bases::new(vec![setting.file.clone()]).open(&delta).expect("opens")).expect("assets"));
    for residence in [Residence::Coded, Residence::Float] {
        let weights = FileWeights::new(setting.open(None)).expect("assets");
        Model::load(&weights, &RunOptions { residence, ..options.clone() }).expect("a model");
        assert!(setting.files().is_empty());
    }
    reported();
}
