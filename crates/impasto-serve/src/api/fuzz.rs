//! What a stranger's request meets before any model does, for the fuzz target `request`.

use impasto_text::{ChatOptions, ChatTemplate};
use serde::de::DeserializeOwned;

use super::chat::ChatRequest;
use super::completions::CompletionRequest;
use super::embeddings::EmbeddingRequest;
use super::error::ApiError;
use super::prompt;
use super::request::{Sampling, count, stops, top_logprobs};
use super::tokens::{DetokenizeRequest, TokenizeRequest};

/// The size of the vocabulary that requests are checked against.
const VOCAB: usize = 4096;
/// The most continuations of a request.
const MOST: usize = 16;
/// A template that reads all that a message may have.
const TEMPLATE: &str = "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}{% for m in messages %}{{ m.role }}: {{ m.content }}\
                        {% for call in m.tool_calls or [] %}{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}\
                        {% endfor %}";

/// Takes the input as the body of each kind of request.
///
/// # Panics
/// If what a request asks for is not within the limits that were checked.
pub fn fuzz_request(data: &[u8]) {
    if let Some(request) = parsed::<ChatRequest>(data) {
        sampling(&request.options.sampling, request.options.n);
        _ = request.top_logprobs.map(|count| ok(top_logprobs("top_logprobs", count)));
        if let Some(stops) = ok(stops(request.options.stop.clone())) {
            assert!(stops.iter().all(|stop| !stop.is_empty()));
        }
        if let Some(tools) = ok(prompt::tools(&request)) {
            let template = ChatTemplate::from_assets(None, Some(TEMPLATE.as_bytes()), None);
            let variables = request.chat_template_kwargs.clone().unwrap_or_default();
            let options = ChatOptions { tools, variables, ..ChatOptions::default() };
            _ = ok(template.and_then(|template| template.render(&request.messages, &options)).map_err(ApiError::from));
        }
    }
    if let Some(request) = parsed::<CompletionRequest>(data) {
        sampling(&request.options.sampling, request.options.n);
        _ = request.logprobs.map(|count| ok(top_logprobs("logprobs", count)));
        _ = ok(stops(request.options.stop));
    }
    _ = parsed::<EmbeddingRequest>(data);
    _ = parsed::<TokenizeRequest>(data);
    _ = parsed::<DetokenizeRequest>(data);
}

fn parsed<T: DeserializeOwned>(data: &[u8]) -> Option<T> {
    ok(serde_json::from_slice(data).map_err(ApiError::invalid_json))
}

fn sampling(sampling: &Sampling, n: Option<usize>) {
    if let Some(n) = ok(count(n, MOST))
        && let Some(choices) = ok(sampling.choices(n))
    {
        assert_eq!(choices.len(), n);
        assert!(choices.iter().all(|choice| choice.validate().is_ok()));
    }
    if let Some(biases) = ok(sampling.biases(VOCAB)) {
        assert!(biases.iter().all(|(id, bias)| (*id as usize) < VOCAB && bias.abs() <= 100.0));
    }
}

/// Returns what is good; an error must be one that can be sent and logged.
fn ok<T>(result: Result<T, ApiError>) -> Option<T> {
    let error = match result {
        Ok(good) => return Some(good),
        Err(error) => error,
    };
    assert!(error.status.is_client_error() && !error.message.is_empty(), "{error:?}");
    assert!(error.message.len() < 8192 && error.logged().len() < 8192);
    None
}
