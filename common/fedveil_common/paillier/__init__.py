"""Packed Paillier and Damgard-Jurik encryption under a key that nobody holds, opened by a threshold of holders.

Source: Bresson, Catalano, Pointcheval (ASIACRYPT 2003); Damgard, Jurik (PKC 2001, ACISP 2003); Camenisch, Shoup (CRYPTO
2003); the construction and its obligations: docs/paillier.md.
Integers are `int` in signatures and gmpy2 `mpz` at run time: faster, otherwise the same. Nothing in this package is
constant-time: every docstring of an operation on secrets says who could observe it.
"""
