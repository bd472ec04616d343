//! When a transaction of one's own that waits in the mempool gives way to a better one: when a quarter more confirms, and by
//! 1 sat/vB at least, as replacement asks (BIP125).

use bitcoin::{Amount, FeeRate, ScriptBuf, Transaction};

/// Whether a transaction at `now` is worth sending in the place of one at `present`.
pub(crate) fn outbids(now: FeeRate, present: FeeRate) -> bool {
    let (now, present) = (now.to_sat_per_kwu(), present.to_sat_per_kwu());
    let replacement = present.saturating_add(FeeRate::BROADCAST_MIN.to_sat_per_kwu());
    now >= (present.saturating_mul(5) / 4).max(replacement)
}

/// Whether a transaction that spends outputs of `held` in all is one's own, because it pays nobody but `script`, and is outbid.
pub(crate) fn is_outbid(spend: &Transaction, held: Amount, script: &ScriptBuf, now: FeeRate) -> bool {
    let paid: Amount = spend.output.iter().map(|output| output.value).sum();
    let fee = held.checked_sub(paid).unwrap_or_default();
    let present =
        FeeRate::from_sat_per_kwu(fee.to_sat().saturating_mul(1_000).div_ceil(spend.weight().to_wu().max(1)));
    spend.output.iter().all(|output| output.script_pubkey == *script) && outbids(now, present)
}
