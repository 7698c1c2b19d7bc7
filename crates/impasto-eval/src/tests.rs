use super::*;
use impasto_model::{Hidden, KvCache, Want};

/// A model whose logits after token `t` are row `t` of a table, so that all results can be computed by hand.
struct Bigram {
    table: Vec<Vec<f32>>,
    context: usize,
}

impl Bigram {
    fn new(vocab: usize, seed: u64) -> Self {
        let mut rng = impasto_core::rng::SplitMix64::new(seed);
        let mut row = || (0..vocab).map(|_| rng.next_f64() as f32 * 6.0 - 3.0).collect();
        Self { table: (0..vocab).map(|_| row()).collect(), context: 64 }
    }

    fn log_probability(&self, before: u32, token: usize) -> f64 {
        let row = &self.table[before as usize];
        f64::from(row[token]) - row.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln()
    }
}

impl CausalLm for Bigram {
    fn vocab_size(&self) -> usize {
        self.table.len()
    }

    fn max_context(&self) -> usize {
        self.context
    }

    fn new_cache(&self, tokens: usize) -> impasto_model::Result<KvCache> {
        KvCache::new(0, 0, tokens)
    }

    fn hidden(&self, _: &mut KvCache, tokens: &[u32], want: Want) -> impasto_model::Result<Hidden> {
        let first = want.first(tokens.len());
        Ok(Hidden::new(tokens[first..].iter().map(|&t| t as f32).collect(), 1))
    }

    fn logits(&self, hidden: &Hidden, rows: Range<usize>) -> impasto_model::Result<Vec<f32>> {
        Ok(hidden.slice(rows)?.iter().flat_map(|&t| self.table[t as usize].clone()).collect())
    }
}

fn text(tokens: usize, vocab: u64, prefix: &[u32]) -> EvalText {
    let mut rng = impasto_core::rng::SplitMix64::new(99);
    EvalText { prefix: prefix.to_vec(), tokens: (0..tokens).map(|_| (rng.next_u64() % vocab) as u32).collect() }
}

/// The (previous token, token) pairs of all scored positions, by the definition in the crate's documentation.
fn pairs(text: &EvalText, o: &EvalOptions) -> Vec<(u32, u32)> {
    let share = o.ctx - text.prefix.len();
    let mut pairs = Vec::new();
    for window in text.tokens.chunks_exact(share).take(o.windows.unwrap_or(usize::MAX)) {
        let window = [text.prefix.as_slice(), window].concat();
        for at in 1..o.ctx {
            let late = o.score == Score::All || at > o.ctx / 2;
            if late && at >= text.prefix.len() {
                pairs.push((window[at - 1], window[at]));
            }
        }
    }
    pairs
}

fn options(ctx: usize, score: Score, windows: Option<usize>) -> EvalOptions {
    EvalOptions { ctx, score, windows, threads: 2 }
}

#[test]
fn equals_the_naive_computation() {
    let (reference, model) = (Bigram::new(11, 1), Bigram::new(11, 2));
    for (prefix, ctx, score, windows) in [
        (&[][..], 16, Score::All, None),
        (&[], 17, Score::SecondHalf, None),
        (&[3], 16, Score::All, Some(2)),
        (&[3, 4], 9, Score::SecondHalf, None),
    ] {
        let (text, o) = (text(201, 11, prefix), options(ctx, score, windows));
        let pairs = pairs(&text, &o);
        let nll: f64 =
            -pairs.iter().map(|&(b, t)| model.log_probability(b, t as usize)).sum::<f64>() / pairs.len() as f64;
        let mut windows = 0;
        let ppl = perplexity(&model, &text, &o, &mut |p| windows = p.done).unwrap();
        assert_eq!((ppl.tokens, ppl.windows), (pairs.len(), windows));
        assert!((ppl.nll.value - nll).abs() < 1e-12);
        assert!((ppl.perplexity.value - nll.exp()).abs() < 1e-9);

        let divergence = |b: u32| -> f64 {
            (0..11)
                .map(|t| {
                    let (p, q) = (reference.log_probability(b, t), model.log_probability(b, t));
                    p.exp() * (p - q)
                })
                .sum()
        };
        let top =
            |m: &Bigram, b: u32| (0..11).max_by(|&x, &y| m.table[b as usize][x].total_cmp(&m.table[b as usize][y]));
        let n = pairs.len() as f64;
        let mean = pairs.iter().map(|p| divergence(p.0)).sum::<f64>() / n;
        let same = pairs.iter().filter(|p| top(&reference, p.0) == top(&model, p.0)).count() as f64 / n;
        let report = kld(&reference, &model, &text, &o, &mut |_| ()).unwrap();
        assert!((report.mean.value - mean).abs() < 1e-12);
        assert!((report.same_top.value - same).abs() < 1e-12);
        assert!((report.same_top.error - (same * (1.0 - same) / (n - 1.0)).sqrt()).abs() < 1e-12);
        let delta = report.model.nll.value - report.reference.nll.value;
        assert!((report.delta_ln_ppl.value - delta).abs() < 1e-12);
        assert_eq!(report.model, ppl);
        assert!(report.median <= report.q90 && report.q90 <= report.q99 && report.q99 <= report.q999);
        assert!(report.q999 <= report.max);
        assert!((report.max - pairs.iter().map(|p| divergence(p.0)).fold(0.0, f64::max)).abs() < 1e-12);
    }
}

#[test]
fn several_models_have_the_figures_that_each_has_alone() {
    let (reference, first, second) = (Bigram::new(11, 1), Bigram::new(11, 2), Bigram::new(11, 3));
    let (text, o) = (text(300, 11, &[]), options(20, Score::All, None));
    let both = klds(&reference, &[&first, &second], &text, &o, &mut |_| ()).unwrap();
    let alone = [&first, &second].map(|model| kld(&reference, model, &text, &o, &mut |_| ()).unwrap());
    assert_eq!([both[0].kld, both[1].kld], alone);
    assert_eq!(both[0].minus_first, Estimate { value: 0.0, error: 0.0 });
    let difference = both[1].minus_first;
    assert!((difference.value - (alone[1].mean.value - alone[0].mean.value)).abs() < 1e-12);
    assert!(difference.error > 0.0);
    assert_eq!(klds(&reference, &[], &text, &o, &mut |_| ()).unwrap(), []);
    let error = klds(&reference, &[&first, &Bigram::new(7, 3)], &text, &o, &mut |_| ()).unwrap_err();
    assert!(matches!(error, EvalError::Vocabularies { reference: 11, ours: 7 }), "{error}");
}

#[test]
fn a_model_is_no_distance_from_itself() {
    let model = Bigram::new(7, 4);
    let report = kld(&model, &model, &text(100, 7, &[]), &options(20, Score::All, None), &mut |_| ()).unwrap();
    assert_eq!(report.mean, Estimate { value: 0.0, error: 0.0 });
    assert_eq!((report.max, report.same_top.value, report.delta_ln_ppl.value), (0.0, 1.0, 0.0));
}

#[test]
fn results_are_written_as_json() {
    let model = Bigram::new(7, 4);
    let ppl = perplexity(&model, &text(100, 7, &[]), &options(20, Score::All, None), &mut |_| ()).unwrap();
    let json = serde_json::to_value(ppl).unwrap();
    assert_eq!(json["perplexity"]["value"], ppl.perplexity.value);
    assert_eq!((json["tokens"].as_u64(), json["ctx"].as_u64()), (Some(95), Some(20)));
    assert_eq!(serde_json::to_value(Score::SecondHalf).unwrap(), "second-half");
}

#[test]
fn what_cannot_be_scored_is_an_error() {
    let model = Bigram::new(7, 4);
    let run = |text: &EvalText, o: EvalOptions| perplexity(&model, text, &o, &mut |_| ()).unwrap_err();
    let long = text(100, 7, &[]);
    assert!(matches!(run(&long, options(101, Score::All, None)), EvalError::Model(ModelError::ContextOverflow { .. })));
    assert!(matches!(run(&text(5, 7, &[]), options(8, Score::All, None)), EvalError::TextTooShort { .. }));
    assert!(matches!(run(&long, options(1, Score::All, None)), EvalError::Model(ModelError::BadOption { .. })));
    assert!(matches!(run(&long, options(2, Score::SecondHalf, None)), EvalError::Model(ModelError::BadOption { .. })));
    assert!(matches!(run(&long, options(8, Score::All, Some(0))), EvalError::Model(ModelError::BadOption { .. })));
    assert!(matches!(
        run(&text(100, 7, &[1, 2, 3]), options(3, Score::All, None)),
        EvalError::Model(ModelError::BadOption { .. })
    ));
    let other = Bigram::new(8, 4);
    let error = kld(&other, &model, &long, &options(8, Score::All, None), &mut |_| ()).unwrap_err();
    assert!(matches!(error, EvalError::Vocabularies { reference: 8, ours: 7 }));
    let nan = Bigram { table: vec![vec![f32::NAN; 7]; 7], context: 64 };
    let error = perplexity(&nan, &long, &options(8, Score::All, None), &mut |_| ()).unwrap_err();
    assert!(matches!(error, EvalError::Model(ModelError::NonFinite(_))));
}
