// Writes the logits that llama.cpp computes for tokens: llama-logits FILE.gguf < TOKENS > LOGITS
// TOKENS are numbers; LOGITS are binary32, one row of the vocabulary's size per token. Keys and values are binary32.
// docs/LLAMA_CPP.md says how to build it.

#include <cstdint>
#include <cstdio>
#include <iostream>
#include <vector>

#include "llama.h"

static int fail(const char * what) {
    std::fprintf(stderr, "llama-logits: %s\n", what);
    return 1;
}

int main(int argc, char ** argv) {
    if (argc != 2) {
        return fail("usage: llama-logits FILE.gguf < TOKENS > LOGITS");
    }
    std::vector<llama_token> tokens;
    for (llama_token token; std::cin >> token;) {
        tokens.push_back(token);
    }
    const auto count = static_cast<int32_t>(tokens.size());

    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level == GGML_LOG_LEVEL_ERROR) {
            std::fputs(text, stderr);
        }
    }, nullptr);
    llama_backend_init();
    llama_model_params model_params = llama_model_default_params();
    model_params.n_gpu_layers = 0;
    llama_model * model = llama_model_load_from_file(argv[1], model_params);
    if (!model) {
        return fail("the model does not load");
    }
    llama_context_params params = llama_context_default_params();
    params.n_ctx = count;
    params.n_batch = params.n_ubatch = count;
    params.n_threads = params.n_threads_batch = 1;
    params.type_k = params.type_v = GGML_TYPE_F32;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    llama_context * context = llama_init_from_model(model, params);
    if (!context) {
        return fail("no context can be made");
    }

    llama_batch batch = llama_batch_init(count, 0, 1);
    for (int32_t i = 0; i < count; i++) {
        batch.token[i] = tokens[i];
        batch.pos[i] = i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = true;
    }
    batch.n_tokens = count;
    if (llama_decode(context, batch) != 0) {
        return fail("the tokens cannot be evaluated");
    }
    const auto width = static_cast<size_t>(llama_vocab_n_tokens(llama_model_get_vocab(model)));
    for (int32_t i = 0; i < count; i++) {
        if (std::fwrite(llama_get_logits_ith(context, i), sizeof(float), width, stdout) != width) {
            return fail("the logits cannot be written");
        }
    }
    return 0;
}
