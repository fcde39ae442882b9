#!/usr/bin/env python3
"""Checks a proof file of a Polity ledger, given its genesis file.

    verify_proof.py PROOF GENESIS

Written from docs/proofs.md alone, with nothing but Python's standard library, and
shares no code with Polity: so that a fault of the one is seen by the other.
"""

import hashlib
import struct
import sys

sha256 = lambda *parts: hashlib.sha256(b"".join(parts)).digest()


class Wrong(Exception):
    """The proof does not hold; why."""


def check(holds, why):
    if not holds:
        raise Wrong(why)


# Ed25519 by the rules of ZIP-215: 8·s·B = 8·R + 8·k·A.

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT = pow(2, (P - 1) // 4, P)


def add(a, b):
    (x1, y1, z1, t1), (x2, y2, z2, t2) = a, b
    e = (y1 - x1) * (y2 - x2) % P
    f = (y1 + x1) * (y2 + x2) % P
    c, d = 2 * t1 * t2 * D % P, 2 * z1 * z2 % P
    return (f - e) * (d - c) % P, (d + c) * (f + e) % P, (d - c) * (d + c) % P, (f - e) * (f + e) % P


def times(n, point):
    sum = (0, 1, 1, 0)
    while n:
        if n & 1:
            sum = add(sum, point)
        point = add(point, point)
        n >>= 1
    return sum


def point(encoded):
    """A point from its encoding, which need not be canonical; None if it is none."""
    y = int.from_bytes(encoded, "little")
    sign, y = y >> 255, (y & (1 << 255) - 1) % P
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if (v * x * x - u) % P:
        x = x * ROOT % P
    if (v * x * x - u) % P:
        return None
    if x & 1 != sign:
        x = -x % P
    return x, y, 1, x * y % P


BASE = point(bytes([0x58]) + bytes([0x66] * 31))


def signed(key, message, signature):
    a, r, s = point(key), point(signature[:32]), int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= L:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + key + message).digest(), "little") % L
    left, right = times(8 * s, BASE), times(8, add(r, times(k, a)))
    return (left[0] * right[2] - right[0] * left[2]) % P == 0 and (left[1] * right[2] - right[1] * left[2]) % P == 0


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def raw(self, count):
        check(self.at + count <= len(self.data), "it ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, width):
        return int.from_bytes(self.raw(width), "big")

    def bytes(self):
        return self.raw(self.number(4))

    def list(self, read):
        return [read() for _ in range(self.number(4))]

    def option(self, read):
        there = self.number(1)
        check(there < 2, "neither there nor not there")
        return read() if there else None

    def name(self, name):
        check(self.raw(len(name)) == name, "it is not a " + name.decode())

    def end(self):
        check(self.at == len(self.data), "there is more than belongs there")

    def key(self):
        check(self.number(1) == 1, "a key of an unknown scheme")
        return self.raw(32)

    def signature(self):
        check(self.number(1) == 1, "a signature of an unknown scheme")
        return self.raw(64)

    def validators(self):
        begin = self.at
        read = self.list(lambda: (self.number(8), self.key(), self.number(8)))
        nodes = [node for node, _, _ in read]
        check(nodes and nodes == sorted(set(nodes)), "validators are not in order")
        check(len({key for _, key, _ in read}) == len(read), "two validators have one key")
        check(all(power for _, _, power in read), "a validator has no power")
        name = sha256(b"polity/bft/validators/1", self.data[begin : self.at])
        return name, {node: (key, power) for node, key, power in read}

    def header(self):
        begin = self.at
        self.name(b"polity/bft/header/1")
        header = {"ledger": self.raw(32), "height": self.number(8), "parent": self.raw(32), "time_ms": self.number(8)}
        for field in ["state", "results", "transactions", "evidence", "validators", "next_validators"]:
            header[field] = self.raw(32)
        header["proposer"] = self.number(8)
        header["id"] = sha256(self.data[begin : self.at])
        return header

    def certificate(self):
        self.name(b"polity/bft/certificate/1")
        certificate = {"height": self.number(8), "round": self.number(4), "block": self.raw(32)}
        certificate["signatures"] = self.list(lambda: (self.number(8), self.signature()))
        return certificate

    def item(self):
        return {
            "key": self.bytes(),
            "value": self.option(self.bytes),
            "leaf": self.option(lambda: (self.raw(32), self.raw(32))),
            "siblings": self.list(lambda: self.raw(32)),
        }


def genesis(data):
    reader = Reader(data)
    reader.name(b"polity/bft/genesis/1")
    reader.bytes()
    reader.number(8)
    validators = reader.validators()
    reader.number(8), reader.number(8), reader.list(reader.bytes)
    reader.end()
    return sha256(data), validators


def certified(ledger, header, certificate, validators):
    name, members = validators
    check(header["ledger"] == ledger, "a header is of another ledger")
    check(header["validators"] == name, "a header names other validators")
    check(certificate["block"] == header["id"], "a certificate is for another block")
    check(certificate["height"] == header["height"], "a certificate is for another height")
    power, seen = 0, set()
    for node, signature in certificate["signatures"]:
        check(node in members and node not in seen, f"node {node} does not count here")
        seen.add(node)
        key, own = members[node]
        message = b"polity/bft/vote/1" + ledger + struct.pack(">QIBB", header["height"], certificate["round"], 2, 1)
        check(signed(key, message + header["id"] + struct.pack(">Q", node), signature), f"node {node}'s signature is wrong")
        power += own
    check(3 * power > 2 * sum(own for _, own in members.values()), "too few signed")


def proved(root, item):
    place = sha256(item["key"])
    bit = lambda hash, depth: hash[depth // 8] >> (7 - depth % 8) & 1
    depth = len(item["siblings"])
    check(depth <= 256, "the way to the root is too long")
    if item["leaf"] is None:
        check(item["value"] is None, "there is no leaf for the value")
        hash = b"SPARSE_MERKLE_PLACEHOLDER_HASH__"
    else:
        key, value = item["leaf"]
        if item["value"] is not None:
            check(key == place and value == sha256(item["value"]), "the leaf is another")
        else:
            check(key != place, "the key has a value")
            check(all(bit(key, d) == bit(place, d) for d in range(depth)), "the leaf does not stand where the key would")
        hash = sha256(b"JMT::LeafNode", key, value)
    for sibling in item["siblings"]:
        depth -= 1
        pair = (sibling, hash) if bit(place, depth) else (hash, sibling)
        hash = sha256(b"JMT::IntrnalNode", *pair)
    check(hash == root, "it leads to another root")


def verify(proof, trust):
    ledger, validators = genesis(trust)
    reader = Reader(proof)
    reader.name(b"polity/bft/proof/1")
    check(reader.raw(32) == ledger, "the proof is about another ledger")
    height = 0
    for header, certificate, following in reader.list(lambda: (reader.header(), reader.certificate(), reader.validators())):
        check(header["height"] > height, "changes of validators are not in order")
        certified(ledger, header, certificate, validators)
        check(header["next_validators"] == following[0], "others are named as the next validators")
        height, validators = header["height"], following
    header, certificate = reader.header(), reader.certificate()
    certified(ledger, header, certificate, validators)
    items = reader.list(reader.item)
    check(items, "it says nothing")
    for item in items:
        proved(header["state"], item)
    check(reader.raw(32) == sha256(proof[: reader.at - 32]), "it is damaged")
    reader.end()
    return header, items


if __name__ == "__main__":
    files = [open(name, "rb").read() for name in sys.argv[1:3]]
    try:
        header, items = verify(*files)
    except Wrong as why:
        sys.exit(f"does not hold: {why}")
    print(f"holds: height {header['height']}, block {header['id'].hex()}")
    for item in items:
        print(item["key"].hex(), "=", "nothing" if item["value"] is None else item["value"].hex())
