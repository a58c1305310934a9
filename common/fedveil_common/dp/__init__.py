"""Differential privacy on the integer grid: the noise that is added to clipped, quantised sums, and what it costs.

Noise is integer noise, added to integers, before anything is protected or opened; a float never meets a sum. What is
drawn follows its distribution within a distance that is proven and charged, from the project's own key stream, and is
the same on every machine, so that noise whose key is opened can be taken away again. Sources: Canonne, Kamath, Steinke
(NeurIPS 2020); Kairouz, Liu, Steinke (ICML 2021); Agarwal, Kairouz, Liu (NeurIPS 2021).
"""
