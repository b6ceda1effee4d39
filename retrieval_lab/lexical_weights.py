"""The lexical head of bge-m3 as a module of sentence-transformers; `sparse.save` puts this file beside the weights, so it imports nothing of ours.
Shown in lesson 02.
"""

import torch
from sentence_transformers.base.modules import Module
from sentence_transformers.util import repad_flattened_features


class LexicalWeights(Module):
    """Of each vocabulary id the largest weight that a linear layer gives to one of its tokens; 0 for ids that do not occur.

    Parameters
    ----------
    width : of the encoder's token vectors
    n_vocabulary : ids that the tokenizer may give
    ignored : ids that never count, i.e. the special tokens

    Source: Chen et al. 2024 (M3-Embedding), section 3.2, "Lexical Retrieval".

    >>> head = LexicalWeights(width=1, n_vocabulary=5, ignored=[0])
    >>> _ = torch.nn.init.ones_(head.linear.weight), torch.nn.init.zeros_(head.linear.bias)
    >>> tokens = {"input_ids": torch.tensor([[0, 3, 2, 3]]), "attention_mask": torch.ones(1, 4)}
    >>> tokens["token_embeddings"] = torch.tensor([[[9.0], [1.0], [-2.0], [5.0]]])
    >>> head(tokens)["sentence_embedding"].tolist()  # id 3: the larger of 1 and 5; id 2: -2 becomes 0
    [[0.0, 0.0, 0.0, 5.0, 0.0]]
    """

    config_keys = ["width", "n_vocabulary", "ignored"]

    def __init__(self, width: int, n_vocabulary: int, ignored: list[int]):
        super().__init__()
        self.width, self.n_vocabulary, self.ignored = width, n_vocabulary, ignored
        self.linear = torch.nn.Linear(width, 1)

    def forward(self, features, **_):
        """Add ``sentence_embedding`` (n_texts, n_vocabulary) to the features."""
        if "cu_seq_lens_q" in features:  # with flash attention the texts of a batch lie end to end
            features = repad_flattened_features(features)
        ids = features["input_ids"]  # (n_texts, n_tokens)
        ignored = torch.tensor(self.ignored, dtype=ids.dtype, device=ids.device)
        counts = features["attention_mask"].bool() & ~torch.isin(ids, ignored)
        weights = self.linear(features["token_embeddings"]).squeeze(-1).relu() * counts
        none = weights.new_zeros(len(ids), self.n_vocabulary)
        features["sentence_embedding"] = none.scatter_reduce(1, ids, weights, "amax")
        return features

    def get_embedding_dimension(self) -> int:
        """Ids of the vocabulary."""
        return self.n_vocabulary

    def save(self, output_path: str, *args, safe_serialization: bool = True, **kwargs) -> None:
        """Write the settings and the layer."""
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **options):
        """Read what `save` wrote; ``options`` are those of the library's own modules."""
        kept = {"token", "cache_folder", "revision", "local_files_only"} & set(options)
        where = {"subfolder": subfolder} | {key: options[key] for key in kept}
        return cls.load_torch_weights(
            model_name_or_path, model=cls(**cls.load_config(model_name_or_path, **where)), **where
        )
