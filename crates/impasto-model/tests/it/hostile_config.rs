//! Configurations with single values replaced: each is accepted or gives an error, and none panics.

use crate::support::tamper::tamper;
use crate::support::{Family, Folder};
use impasto_model::config::DecoderConfig;
use serde_json::Value;

#[test]
fn config() {
    let tiny: Value = serde_json::from_slice(&Folder::tiny().table().assets["config.json"]).unwrap();
    for good in Family::all().iter().map(Family::config).chain([tiny]) {
        let mut refused = 0;
        tamper(&good, &mut |config| {
            let read = DecoderConfig::from_json(&serde_json::to_vec(config).unwrap());
            refused += usize::from(read.is_err());
            if let Ok(config) = read {
                assert!(config.weight_bytes().is_some());
                for rope in &config.ropes {
                    assert!([1, usize::MAX].iter().all(|&n| rope.frequencies(n).iter().all(|f| f.is_finite())));
                }
            }
        });
        assert!(refused > 90, "{}: {refused}", good["model_type"]);
    }
}
