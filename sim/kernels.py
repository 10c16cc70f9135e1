"""The inner loops, compiled: groups of M responses drawn exactly, log-odds moved, answers of a softmax policy sampled.

Random words. A step has one 64-bit key, drawn from the caller's generator. Prompt i owns the SplitMix64 stream (Steele,
Lea and Flood 2014) that starts at the hash of the key and i, so what a prompt draws depends neither on the number of
threads nor on how the population is cut into blocks. (Among a million prompts two streams overlap in one step of some
five million; two groups of that step then share a few words.)

Exact binomials. K ~ Bin(M, ρ) counts the lanes, M of them, whose uniform number is below ρ. Numbers are compared digit
by digit in base 256, most significant first: eight lanes lie in the eight bytes of a word and are compared with ρ's
first digit by one subtraction; the rare lane (1 in 256) that ties draws its remaining digits in one word of its own. To
be as exact near ρ = 1 as near 0 the rarer outcome is counted. Its probability is rounded down to a multiple of 2^-63.

Loops over blocks of 512 prompts are split into phases without branches, so that the compiler makes vector code of them;
the exponential is spelled out for the same reason, and has the same bits on every machine.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

LOG_ODDS_LIMIT = 36.0  # |θ| is clamped here: beyond it 1-ρ has no digits left beside 1
BLOCK = 512

_INCREMENT = np.uint64(0x9E3779B97F4A7C15)  # SplitMix64
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_TOPS = np.uint64(0x8080808080808080)  # the top bit of each byte
_ONES = np.uint64(0x0101010101010101)
_LARGEST = np.int64(2**62 - 1)  # keeps the first digit below 128
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # fdlibm's e_exp.c
_LOG2_E = 1.4426950408889634


@njit(inline="always")
def _mix(word):
    """SplitMix64's finaliser."""
    word = (word ^ (word >> np.uint64(30))) * _MIX_1
    word = (word ^ (word >> np.uint64(27))) * _MIX_2
    return word ^ (word >> np.uint64(31))


@njit(cache=True, nogil=True, error_model="numpy")
def _exponential(log_odds, mantissa, exponent):
    """e^-|θ| = mantissa · 2^n: Taylor to degree 12 on |r| ≤ ln(2)/2 (2e-16), and the bits of 2^n as an integer."""
    for i in range(log_odds.size):
        x = -abs(log_odds[i])
        n = np.floor(x * _LOG2_E + 0.5)
        r = (x - n * _LN2_HIGH) - n * _LN2_LOW
        p = r * (1 / 479001600) + 1 / 39916800
        p = p * r + 1 / 3628800
        p = p * r + 1 / 362880
        p = p * r + 1 / 40320
        p = p * r + 1 / 5040
        p = p * r + 1 / 720
        p = p * r + 1 / 120
        p = p * r + 1 / 24
        p = p * r + 1 / 6
        p = p * r + 1 / 2
        p = p * r + 1
        mantissa[i] = p * r + 1
        exponent[i] = (np.int64(n) + 1023) << 52


@njit(cache=True, nogil=True, error_model="numpy")
def _rare_probability(odds, power, digits, state, lanes, ties, key, first):
    """Odds e^-|θ| in place of the mantissa, the rarer outcome's probability as 64 binary digits, streams started."""
    for i in range(odds.size):
        odds[i] *= power[i]
        fixed = np.int64(odds[i] / (1 + odds[i]) * 9223372036854775808.0)
        digits[i] = np.uint64(min(fixed, _LARGEST)) << np.uint64(1)
        state[i] = _mix(key + _INCREMENT * np.uint64(first + i))
        lanes[i] = 0
        ties[i] = 0


@njit(cache=True, nogil=True, error_model="numpy")
def _compare(digits, state, lanes, ties, unused):
    """Eight lanes of every prompt: count those below the first digit and those that tie; `unused` bytes never are."""
    for i in range(digits.size):
        state[i] += _INCREMENT
        word = _mix(state[i]) | unused
        digit = (digits[i] >> np.uint64(56)) * _ONES
        # (128 + low seven bits) - digit has its top bit set unless they are below it; the digit is at most 127.
        raised = word | _TOPS
        below = ~((raised - digit) | word) & _TOPS
        below_or_equal = ~((raised - digit - _ONES) | word) & _TOPS
        count = ((below >> np.uint64(7)) * _ONES) >> np.uint64(56)
        lanes[i] += np.int64(count)
        ties[i] += np.int64((((below_or_equal >> np.uint64(7)) * _ONES) >> np.uint64(56)) - count)


@njit(cache=True, nogil=True, error_model="numpy")
def _resolve(digits, state, lanes, ties):
    """Lanes that tie on the first digit: a word each against the remaining digits."""
    for i in range(digits.size):
        rest = digits[i] << np.uint64(8)
        for _ in range(ties[i]):
            state[i] += _INCREMENT
            if _mix(state[i]) < rest:
                lanes[i] += 1


@njit(cache=True, nogil=True, error_model="numpy")
def _draw_again(digits, state, lanes, group_size, most):
    """Dynamic sampling: replace uniform groups by new ones until mixed, `most` groups at most; the groups drawn."""
    drawn = 0
    for i in range(digits.size):
        groups = 1
        while (lanes[i] == 0 or lanes[i] == group_size) and groups < most:
            count = 0
            for _ in range(group_size):
                state[i] += _INCREMENT
                count += _mix(state[i]) < digits[i]
            lanes[i] = count
            groups += 1
        drawn += groups
    return drawn


@njit(cache=True, nogil=True, error_model="numpy")
def _orient(log_odds, lanes, group_size):
    """From the count of the rarer outcome to K; all-wrong and all-right groups among them."""
    all_wrong = all_right = 0
    for i in range(log_odds.size):
        correct = group_size - lanes[i] if log_odds[i] > 0 else lanes[i]
        lanes[i] = correct
        all_wrong += int(correct == 0)
        all_right += int(correct == group_size)
    return all_wrong, all_right


@njit(cache=True, nogil=True, error_model="numpy")
def _move_ratio(log_odds, odds, correct, gain_correct, gain_wrong):
    """θ += gain_correct[K]/ρ + gain_wrong[K]/(1-ρ); with the odds o of the rarer outcome, 1 + o and 1 + 1/o."""
    for i in range(log_odds.size):
        k = np.uint64(correct[i])  # unsigned: no look-up from the end
        up = log_odds[i] > 0
        common = gain_correct[k] if up else gain_wrong[k]
        rare = gain_wrong[k] if up else gain_correct[k]
        moved = log_odds[i] + (common * (1 + odds[i]) + rare * (1 + 1 / odds[i]))
        log_odds[i] = min(max(moved, -LOG_ODDS_LIMIT), LOG_ODDS_LIMIT)


@njit(cache=True, nogil=True, error_model="numpy")
def _move_outcome(log_odds, correct, gain):
    """θ += gain[K]."""
    for i in range(log_odds.size):
        log_odds[i] = min(max(log_odds[i] + gain[np.uint64(correct[i])], -LOG_ODDS_LIMIT), LOG_ODDS_LIMIT)


@njit(cache=True, nogil=True, error_model="numpy")
def advance(log_odds, first, key, group_size, most, ratio, gain_correct, gain_wrong, successes):
    """Draw a group for each prompt and move its log-odds, in place.

    Parameters
    ----------
    log_odds
        Shape (n,), within ±`LOG_ODDS_LIMIT`.
    first
        Index of the first of these prompts in the population.
    key
        Of this step.
    group_size
        M.
    most
        Groups drawn for a prompt until one is mixed; 1 without dynamic sampling.
    ratio
        Whether a move is gain_correct[K]/ρ + gain_wrong[K]/(1-ρ), else gain_correct[K] + gain_wrong[K].
    gain_correct, gain_wrong
        Shape (M+1,) each, or (0,) each: draw only.
    successes
        Shape (n,) or (0,). Receives K.

    Returns
    -------
    drawn, all_wrong, all_right : int
        Groups drawn; uniform ones among those used.
    """
    odds, power = np.empty(BLOCK), np.empty(BLOCK, np.int64)
    digits, state = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint64)
    lanes, ties = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64)
    words = (group_size + 7) // 8
    last = np.uint64(0) if group_size % 8 == 0 else ~((np.uint64(1) << np.uint64(8 * (group_size % 8))) - np.uint64(1))
    drawn = all_wrong = all_right = 0
    both = gain_correct + gain_wrong
    for start in range(0, log_odds.size, BLOCK):
        here = log_odds[start : start + BLOCK]
        m = here.size
        _exponential(here, odds, power)
        _rare_probability(
            odds[:m], power.view(np.float64)[:m], digits, state, lanes, ties, key, np.uint64(first) + np.uint64(start)
        )
        for word in range(words):
            _compare(digits[:m], state, lanes, ties, last if word == words - 1 else np.uint64(0))
        _resolve(digits[:m], state, lanes, ties)
        drawn += m if most == 1 else _draw_again(digits[:m], state, lanes, group_size, most)
        wrong, right = _orient(here, lanes, group_size)
        all_wrong += wrong
        all_right += right
        if successes.size > 0:
            successes[start : start + m] = lanes[:m]
        if gain_correct.size > 0:
            if ratio:
                _move_ratio(here, odds, lanes, gain_correct, gain_wrong)
            else:
                _move_outcome(here, lanes, both)
    return drawn, all_wrong, all_right


@njit(cache=True, nogil=True, error_model="numpy")
def advance_answers(logits, first, key, right, group_size, most, move, step, correct, wrong):
    """Sample a group from each prompt's softmax policy and move its logits, in place.

    With n_v of M responses equal to answer v, advantage A_v and c_v = n_v A_v/M, the moves are

        0  z_v += η c_v/π_v          natural gradient: the KL-proximal step on the importance-weighted surrogate
        1  z_v += η A_v 1{n_v > 0}   the same step on the empirical distribution
        2  z_v += η (c_v - π_v Σc)   vanilla gradient

    after which the largest logit is 0 and none is below -`LOG_ODDS_LIMIT`.

    Parameters
    ----------
    logits
        Shape (n, V). The largest of each row is 0.
    first, key, group_size, most
        As `advance`.
    right
        The first so many answers are correct.
    move
        0, 1 or 2, as above.
    step
        η.
    correct, wrong
        Shape (M+1,). Advantages by K.

    Returns
    -------
    drawn, all_wrong, all_right : int
    """
    answers = logits.shape[1]
    cumulative, policy, counts = np.empty(answers), np.empty(answers), np.empty(answers, np.int64)
    drawn = all_wrong = all_right = 0
    for i in range(logits.shape[0]):
        state = _mix(key + _INCREMENT * (np.uint64(first) + np.uint64(i)))
        total = 0.0
        for v in range(answers):
            total += math.exp(logits[i, v])
            cumulative[v] = total
        for v in range(answers):
            policy[v] = math.exp(logits[i, v]) / total
        groups, successes = 0, 0
        while groups == 0 or ((successes == 0 or successes == group_size) and groups < most):
            counts[:] = 0
            successes = 0
            for _ in range(group_size):
                state += _INCREMENT
                at = np.float64(_mix(state) >> np.uint64(11)) * 1.1102230246251565e-16 * total
                v = min(np.searchsorted(cumulative, at, side="right"), answers - 1)
                counts[v] += 1
                successes += v < right
            groups += 1
        drawn += groups
        all_wrong += successes == 0
        all_right += successes == group_size
        pull = (successes * correct[successes] + (group_size - successes) * wrong[successes]) / group_size
        largest = -np.inf
        for v in range(answers):
            advantage = correct[successes] if v < right else wrong[successes]
            share = counts[v] * advantage / group_size
            if move == 0:
                logits[i, v] += step * share / policy[v]
            elif move == 1:
                logits[i, v] += step * advantage if counts[v] > 0 else 0.0
            else:
                logits[i, v] += step * (share - policy[v] * pull)
            largest = max(largest, logits[i, v])
        for v in range(answers):
            logits[i, v] = max(logits[i, v] - largest, -LOG_ODDS_LIMIT)
    return drawn, all_wrong, all_right
