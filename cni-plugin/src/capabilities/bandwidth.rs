//! Rate limits of a pod: capability `bandwidth`, converted from bits to bytes.
//!
//! [`crate::attach`] sets them with a token bucket at both ends of the veth.

use dataplane_host::netlink::Rate;
use serde::Deserialize;
use serde_json::Value;

use crate::error::CniError;

const FIELD: &str = "runtimeConfig.bandwidth";
/// Largest accepted burst. Kubernetes runtimes pass this value, or more, if no burst is set.
const NO_BURST: u64 = i32::MAX as u64;
/// The burst without a setting: a tenth of what may be sent in a second.
const BURSTS_PER_SECOND: u64 = 10;
/// The least burst, in bytes: some packets of any link.
const LEAST_BURST: u64 = 1 << 17;

/// The limits of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bandwidth {
    /// Limit of the traffic to the pod.
    pub(crate) ingress: Option<Rate>,
    /// Limit of the traffic from the pod.
    pub(crate) egress: Option<Rate>,
}

/// The limits as runtimes write them: rates in bits a second (0: no limit), bursts in bits.
#[derive(Default, Deserialize)]
struct RawBandwidth {
    #[serde(rename = "ingressrate", default)]
    ingress_rate: u64,
    #[serde(rename = "ingressburst", default)]
    ingress_burst: u64,
    #[serde(rename = "egressrate", default)]
    egress_rate: u64,
    #[serde(rename = "egressburst", default)]
    egress_burst: u64,
}

pub(super) fn parse(value: Option<Value>) -> Result<Bandwidth, CniError> {
    let raw: Option<RawBandwidth> =
        value.map_or(Ok(None), serde_json::from_value).map_err(|e| CniError::config(FIELD, e.to_string()))?;
    let raw = raw.unwrap_or_default();
    Ok(Bandwidth {
        ingress: rate("ingress", raw.ingress_rate, raw.ingress_burst)?,
        egress: rate("egress", raw.egress_rate, raw.egress_burst)?,
    })
}

fn rate(direction: &str, rate: u64, burst: u64) -> Result<Option<Rate>, CniError> {
    match (rate, burst) {
        (0, 0) => return Ok(None),
        (0, _) => return Err(CniError::config(FIELD, format!("{direction}Burst without {direction}Rate"))),
        (1..8, _) => {
            return Err(CniError::config(
                FIELD,
                format!("{direction}Rate of {rate} bits a second is less than a byte"),
            ));
        }
        _ => {}
    }
    let bytes_per_second = rate / 8;
    let burst = if burst == 0 || burst >= NO_BURST { bytes_per_second / BURSTS_PER_SECOND } else { burst / 8 };
    let burst = u32::try_from(burst.max(LEAST_BURST)).unwrap_or(u32::MAX);
    Ok(Some(Rate { bytes_per_second, burst }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capabilities::Capabilities;
    use crate::env::Arguments;
    use serde_json::json;

    fn bandwidth(value: &Value) -> Result<Bandwidth, String> {
        let capabilities = Capabilities::parse(Some(&json!({ "bandwidth": value })), &Arguments::default())
            .map_err(|e| e.to_string())?;
        Ok(capabilities.bandwidth)
    }

    #[test]
    fn bits_become_bytes_and_default_burst_is_100_ms() {
        let value =
            json!({ "ingressRate": 80_000_000, "ingressBurst": 8_000_000, "egressRate": 1_000_000_000_000_u64 });
        let expected = Bandwidth {
            ingress: Some(Rate { bytes_per_second: 10_000_000, burst: 1_000_000 }),
            egress: Some(Rate { bytes_per_second: 125_000_000_000, burst: u32::MAX }),
        };
        assert_eq!(bandwidth(&value).unwrap(), expected);
        let containerd =
            json!({ "IngressRate": 8_000_000, "IngressBurst": 4_294_967_295_u64, "EgressRate": 0, "EgressBurst": 0 });
        let ingress = Some(Rate { bytes_per_second: 1_000_000, burst: 1 << 17 });
        assert_eq!(bandwidth(&containerd).unwrap(), Bandwidth { ingress, egress: None });
        assert_eq!(bandwidth(&Value::Null).unwrap(), Bandwidth::default());
    }

    #[test]
    fn invalid_bandwidth_names_the_field() {
        for (value, words) in [
            (json!({ "egressBurst": 1 }), "egressBurst without egressRate"),
            (json!({ "ingressRate": 7 }), "ingressRate of 7 bits a second"),
            (json!({ "ingressRate": -1 }), "bandwidth: invalid value"),
            (json!([1]), "bandwidth"),
        ] {
            assert!(bandwidth(&value).unwrap_err().contains(words), "{value}");
        }
    }
}
