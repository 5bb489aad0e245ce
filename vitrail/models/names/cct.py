"""The names that the authors of the Compact Transformers give to their parameters."""

from __future__ import annotations

TABLES = {
    "SHI-Labs/Compact-Transformers": [
        ("tokenizer.conv_layers.{i}.0.", "embed.tokenizer.{i}."),
        ("classifier.positional_emb", "embed.position"),
        ("classifier.class_emb", "embed.token"),
        ("classifier.attention_pool.", "pool.score."),
        ("classifier.fc.", "head."),
        ("classifier.", ""),
        (".self_attn.", ".mixer."),
        (".linear1.", ".ffn.fc1."),
        (".linear2.", ".ffn.fc2."),
        (".norm1.", ".norm2."),
        (".pre_norm.", ".norm1."),
    ]
}
