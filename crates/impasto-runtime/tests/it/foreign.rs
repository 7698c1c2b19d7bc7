//! A network from outside this workspace, with its own cache, behind the public interface.

use std::ops::{ControlFlow, Range};

use crate::support::Folder;
use impasto_model::cache::KvStorage;
use impasto_model::{CausalLm, Hidden, KvCache, ModelError, Result, Session, Want, check_tokens};
use impasto_runtime::{GenerateOptions, Model, RunOptions, generate};

/// Predicts the token from `distance` tokens ago.
struct Echo {
    vocab: usize,
    distance: usize,
}

/// The state that it keeps per token. On another device this would be a handle.
struct Said(Vec<u32>);

impl KvStorage for Said {
    fn reserve(&mut self, tokens: usize) -> Result<()> {
        self.0.try_reserve(tokens).map_err(|_| ModelError::Memory { what: "said", bytes: tokens as u64 * 4 })
    }

    fn advance(&mut self, _: usize) {}

    fn truncate(&mut self, tokens: usize) {
        self.0.truncate(tokens);
    }

    fn memory_bytes(&self) -> usize {
        self.0.capacity() * 4
    }

    fn fork(&self) -> Result<Box<dyn KvStorage>> {
        Ok(Box::new(Said(self.0.clone())))
    }
}

impl CausalLm for Echo {
    fn vocab_size(&self) -> usize {
        self.vocab
    }

    fn max_context(&self) -> usize {
        64
    }

    fn new_cache(&self, tokens: usize) -> Result<KvCache> {
        let mut cache = KvCache::of(Box::new(Said(Vec::new())));
        cache.reserve(tokens.min(64))?;
        Ok(cache)
    }

    fn hidden(&self, cache: &mut KvCache, tokens: &[u32], want: Want) -> Result<Hidden> {
        if cache.store::<Said>().is_none() {
            return Err(ModelError::ForeignCache);
        }
        check_tokens(tokens, self.vocab, cache.len(), self.max_context())?;
        cache.reserve(tokens.len())?;
        let said = cache.store::<Said>().ok_or(ModelError::ForeignCache)?;
        let first = said.0.len() + want.first(tokens.len());
        said.0.extend_from_slice(tokens);
        let next = |at: usize| said.0[(at + 1).saturating_sub(self.distance)] as f32;
        let rows = (first..said.0.len()).map(next).collect();
        let context = said.0.len();
        cache.advance(tokens, context);
        Ok(Hidden::new(rows, 1))
    }

    fn logits(&self, hidden: &Hidden, rows: Range<usize>) -> Result<Vec<f32>> {
        let mut logits = vec![0.0; rows.len() * self.vocab];
        for (row, &next) in logits.chunks_exact_mut(self.vocab).zip(hidden.slice(rows)?) {
            row[next as usize] = 9.0;
        }
        Ok(logits)
    }
}

#[test]
fn it_generates_text() {
    let tiny = Model::load(&Folder::tiny(), &RunOptions::default()).unwrap();
    let tokenizer = tiny.tokenizer().unwrap();
    let prompt = tokenizer.encode(" a little dog", false).unwrap();
    let echo = Echo { vocab: tiny.network().vocab_size(), distance: prompt.len() };
    let options = GenerateOptions { max_tokens: 2 * prompt.len(), ..GenerateOptions::default() };
    let made = generate(&echo, tokenizer, &prompt, &options, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(made.text, " a little dog a little dog");

    let mut session = Session::new(&echo, Default::default()).unwrap();
    session.extend(&prompt).unwrap();
    assert_eq!(session.verify(&prompt[..1]).unwrap().len(), 2 * echo.vocab);
    let mut fork = session.fork().unwrap();
    session.step().unwrap();
    fork.truncate(1);
    fork.extend(&[3]).unwrap();
    let steps = Session::step_many(&mut [&mut session, &mut fork]).unwrap();
    assert_eq!(steps.len(), 2);
    assert_eq!((steps[0].token, steps[1].token), (prompt[2 % prompt.len()], prompt[0]));
}

#[test]
fn caches_of_other_networks_are_refused() {
    let tiny = Model::load(&Folder::tiny(), &RunOptions::default()).unwrap();
    let float = Model::load(&Folder::tiny(), &RunOptions::float()).unwrap();
    let echo = Echo { vocab: 9, distance: 1 };
    let networks: [&dyn CausalLm; 3] = [tiny.network(), float.network(), &echo];
    for (i, network) in networks.into_iter().enumerate() {
        for (j, other) in networks.into_iter().enumerate() {
            let mut cache = other.new_cache(0).unwrap();
            let ran = network.hidden(&mut cache, &[1], Want::All);
            assert_eq!(matches!(ran, Err(ModelError::ForeignCache)), i != j, "cache {j} in network {i}");
            assert_eq!(cache.len(), usize::from(i == j));
        }
    }
}
