"""A second implementation of sealed records (docs/wire.md), from PyPI `cryptography` and an HChaCha20 of its own.

records.py make     prints the vectors that stand in tests/vectors/records/python.json
records.py open     reads such vectors, of whoever sealed them, as lines of JSON; opens each and seals it again

Each begins by computing the vectors of draft-irtf-cfrg-xchacha-03. Ends with status 0, or prints what is wrong and ends with 1.
"""

import base64
import hashlib
import json
import struct
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

VERSION = b"\x01"
SUITE = b"\x01"


def hchacha20(key, nonce):
    """draft-irtf-cfrg-xchacha-03, section 2.2: a subkey from a key and the first 16 bytes of a nonce."""
    state = list(struct.unpack("<16I", b"expand 32-byte k" + key + nonce))

    def quarter(a, b, c, d):
        for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            state[x] = (state[x] + state[y]) & 0xFFFFFFFF
            mixed = state[z] ^ state[x]
            state[z] = (mixed << turn | mixed >> (32 - turn)) & 0xFFFFFFFF

    for _ in range(10):
        for column in range(4):
            quarter(column, 4 + column, 8 + column, 12 + column)
        for first in range(4):
            quarter(first, 4 + (first + 1) % 4, 8 + (first + 2) % 4, 12 + (first + 3) % 4)
    return struct.pack("<8I", *state[:4], *state[12:])


def xchacha20_poly1305(key, nonce):
    """The cipher under the subkey, and the nonce that is left for it (section 2.3)."""
    return ChaCha20Poly1305(hchacha20(key, nonce[:16])), bytes(4) + nonce[16:]


def seal(key, nonce, plaintext, aad):
    cipher, rest = xchacha20_poly1305(key, nonce)
    return cipher.encrypt(rest, plaintext, aad)


def open_sealed(key, nonce, sealed, aad):
    cipher, rest = xchacha20_poly1305(key, nonce)
    return cipher.decrypt(rest, sealed, aad)


def check_against_the_draft():
    """Sections 2.2.1 and A.3.1."""
    subkey = hchacha20(bytes(range(32)), bytes.fromhex("000000090000004a0000000031415927"))
    assert subkey.hex() == "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"
    sealed = seal(
        bytes(range(0x80, 0xA0)),
        bytes(range(0x40, 0x58)),
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it.",
        bytes.fromhex("50515253c0c1c2c3c4c5c6c7"),
    )
    assert sealed.hex() == (
        "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb"
        "731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452"
        "2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
        "21f9664c97637da9768812f615c68b13b52e"
        "c0875924c1c7987947deafd8780acf49"
    )


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def expand(prk, info):
    return HKDFExpand(algorithm=hashes.SHA256(), length=32, info=info).derive(prk)


def keys(token):
    """Lookup id, record key and commitment of a token's bytes."""
    extract = hmac.HMAC(b"CPBLTY1/token/v1", hashes.SHA256())
    extract.update(token)
    prk = extract.finalize()
    labels = (b"CPBLTY1/lookup-id/v1", b"CPBLTY1/record-key/v1" + SUITE, b"CPBLTY1/record-commit/v1" + SUITE)
    return [expand(prk, label) for label in labels]


def associated(vector, lookup):
    fields = [b"CPBLTY1/record/v1", VERSION, SUITE, bytes([vector["kind"]]), lookup]
    expires = vector["expiresAt"]
    fields.append(b"" if expires is None else struct.pack(">Q", expires))
    for unit in vector["units"]:
        if isinstance(unit, list):
            tenant, membrane = unit
            fields.append(unb64(tenant) + (bytes(16) if membrane is None else unb64(membrane)))
        else:
            fields.append(b"\x01" + unb64(unit))
    return b"".join(struct.pack(">I", len(field)) + field for field in fields)


def padded(content):
    size = 512
    while size < len(content):
        size *= 2
    return content + b" " * (size - len(content))


def sealed_record(vector):
    """A vector with what sealing it gives: lookup, inner, outer."""
    lookup, key, commit = keys(unb64(vector["token"].removeprefix("CPBLTY1-")))
    content, kek = vector["content"].encode(), unb64(vector["kek"])
    nonce, outer_nonce = unb64(vector["nonce"]), unb64(vector["outerNonce"])
    inner = VERSION + SUITE + commit + nonce + seal(key, nonce, padded(content), associated(vector, lookup))
    kek_id = hashlib.sha256(b"CPBLTY1/kek-id/v1" + kek).digest()[:4]
    outer = kek_id + outer_nonce + seal(kek, outer_nonce, inner, lookup)
    return vector | {"lookup": b64(lookup), "inner": b64(inner), "outer": b64(outer)}


def opened_record(vector):
    """The content of a sealed vector, both layers taken off."""
    lookup, key, commit = keys(unb64(vector["token"].removeprefix("CPBLTY1-")))
    assert b64(lookup) == vector["lookup"], "another lookup id"
    outer, kek = unb64(vector["outer"]), unb64(vector["kek"])
    assert outer[:4] == hashlib.sha256(b"CPBLTY1/kek-id/v1" + kek).digest()[:4], "another KEK"
    inner = open_sealed(kek, outer[4:28], outer[28:], lookup)
    assert b64(inner) == vector["inner"], "another inner record"
    assert inner[:2] == VERSION + SUITE and inner[2:34] == commit, "another suite or commitment"
    return open_sealed(key, inner[34:58], inner[58:], associated(vector, lookup)).rstrip(b" ").decode()


def random_bytes(*what, length):
    """The same for ever: these are test vectors."""
    return hashlib.shake_256(repr(what).encode()).digest(length)


def vectors():
    grant = json.dumps(
        {
            "uri": "https://lambda.eu-central-1.amazonaws.com/2015-03-31/functions/f/invocations",
            "hmac": {"aws4-hmac-sha256": {"awsAccessKeyId": "AKIDEXAMPLE", "secretAccessKey": "wJalrXUtnFEMI/K7MDENG"}},
        }
    )
    contents = ["{}", grant, json.dumps({"note": "\u00e9\U0001f980"}, ensure_ascii=False), "[" + "1," * 255 + "1]",
                json.dumps("x" * 510), json.dumps("x" * 511), json.dumps("x" * 1500)]
    for number in range(42):
        drawn = lambda name, length: random_bytes(number, name, length=length)  # noqa: E731
        units = []
        for pair in range(1 + [0, 1, 2, 15][number % 4]):
            membrane = None if (number + pair) % 3 == 0 else b64(drawn(("membrane", pair), 16))
            units.append([b64(drawn(("tenant", pair), 16)), membrane])
        units += [b64(drawn(("source", source), 32)) for source in range([0, 0, 1, 16, 3][number % 5])]
        yield {
            "token": "CPBLTY1-" + b64(drawn("token", 32 if number % 6 == 5 else 64)),
            "kek": b64(drawn("kek", 32)),
            "kind": 1 + number % 3,
            "expiresAt": [None, 1_900_000_000, 0, 2**63 - 1][number // 2 % 4],
            "units": units,
            "content": contents[number % len(contents)],
            "nonce": b64(drawn("nonce", 24)),
            "outerNonce": b64(drawn("outer nonce", 24)),
        }


def main(command):
    check_against_the_draft()
    if command == "make":
        lines = (json.dumps(sealed_record(vector), ensure_ascii=False) for vector in vectors())
        sys.stdout.write("[\n" + ",\n".join(lines) + "\n]\n")
    elif command == "open":
        count = 0
        for line in sys.stdin:
            vector = json.loads(line)
            try:
                assert opened_record(vector) == vector["content"], "another content"
                again = sealed_record(vector)
                assert again == vector, [name for name in again if again[name] != vector[name]]
            except (AssertionError, InvalidTag) as error:
                sys.exit(f"record {count}: {error!r}")
            count += 1
        print(count)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
