"""Request sets, and the arithmetic that their scores need."""
import json

from tokenizers import Tokenizer

MAX_LENGTH = 512


def lengths(tokenizer, body):
    """Tokens of every pair, as the servers cut them."""
    pairs = [(body["query"], document["content"]) for document in body["documents"]]
    return [min(MAX_LENGTH, len(pair.ids)) for pair in tokenizer.encode_batch(pairs)]


def gflop(config, sequences):
    """What the scores need, without padding: the last layer in full for `<s>` only. Projections, and attention between them."""
    hidden, ffn, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    tokens = sum(sequences)
    rest_of_layer = 2 * (2 * hidden * hidden + 2 * hidden * ffn)  # queries, output, feed-forward; a row
    keys_values = 2 * 2 * hidden * hidden
    projections = ((layers - 1) * tokens * (rest_of_layer + keys_values)
                   + tokens * keys_values + len(sequences) * rest_of_layer + len(sequences) * 2 * hidden * hidden)
    attention = (layers - 1) * sum(4 * hidden * n * n for n in sequences) + 4 * hidden * tokens
    return 1e-9 * projections, 1e-9 * attention


def read_requests(path, model):
    """The requests of a file, each with its set's name and what it asks of this model."""
    config = json.loads((model / "config.json").read_text())
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    requests = json.loads(path.read_text())["requests"]
    for request in requests:
        sequences = lengths(tokenizer, request["body"])
        request.setdefault("set", f"{len(sequences)}")
        projections, attention = gflop(config, sequences)
        request.update(documents=len(sequences), tokens=sum(sequences), padded_tokens=len(sequences) * max(sequences),
                       gflop=projections + attention, projection_gflop=projections)
    return requests


def by_set(requests):
    """The numbers of the requests of each set, in the order of the file."""
    sets = {}
    for number, request in enumerate(requests):
        sets.setdefault(request["set"], []).append(number)
    return sets


def model_facts(model):
    config = json.loads((model / "config.json").read_text())
    return {"layers": config["num_hidden_layers"], "hidden": config["hidden_size"],
            "ffn": config["intermediate_size"], "vocabulary": config["vocab_size"]}
