"""A tokenizer of transformers over bytes with a chat template (needs transformers and tokenizers)."""

import tokenizers
import transformers


def byte_tokenizer(template, texts, vocab_size):
    """Byte-level BPE learned from `texts`, with the marks of ChatML and of Hermes' tool calls."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    inner.add_tokens(["<tool_call>", "</tool_call>"])
    out = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>")
    out.chat_template = template
    return out
