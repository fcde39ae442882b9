//! The figures of this node's links, for `/metrics`.

use std::fmt;

use polity_cluster::links::{Links, PeerLink, PeerTraffic, Reason};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Reads the figures of the links when they are asked for.
pub(crate) struct LinkFigures(pub Links);

impl fmt::Debug for LinkFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkFigures").field("node", &self.0.node()).finish()
    }
}

struct Encoder<'a> {
    encoder: DescriptorEncoder<'a>,
    peers: Vec<PeerLink>,
}

impl Encoder<'_> {
    /// One value for each peer that has it.
    fn gauges(&mut self, name: &str, help: &str, value: impl Fn(&PeerLink) -> Option<f64>) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for peer in &self.peers {
            if let Some(value) = value(peer) {
                ConstGauge::new(value).encode(family.encode_family(&[("peer", peer.node.0)])?)?;
            }
        }
        Ok(())
    }

    /// One value for each peer and kind of traffic.
    fn counters(&mut self, name: &str, help: &str, value: impl Fn(&PeerTraffic) -> u64) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for peer in &self.peers {
            for (traffic, figures) in [("control", &peer.control), ("bulk", &peer.bulk)] {
                let labels = [("peer", peer.node.0.to_string()), ("traffic", traffic.to_owned())];
                ConstCounter::new(value(figures)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

impl Collector for LinkFigures {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let LinkFigures(links) = self;
        let mut encoder = Encoder { encoder, peers: links.peers() };
        encoder.gauges("link_connected", "Whether this node is connected to the peer", |peer| {
            Some(f64::from(u8::from(peer.connected)))
        })?;
        encoder.gauges("link_round_trip_seconds", "How long the peer takes to answer, smoothed", |peer| {
            peer.round_trip.map(|took| took.as_secs_f64())
        })?;
        encoder.gauges("link_calls_waiting", "Calls that wait for answers of the peer", |peer| {
            Some(peer.waiting as f64)
        })?;
        encoder.gauges("link_calls_being_answered", "Calls of the peer that are being answered", |peer| {
            Some(peer.being_answered as f64)
        })?;
        encoder.counters("link_sent_bytes", "Bytes sent to the peer, before encryption", |t| t.bytes_sent)?;
        encoder.counters("link_received_bytes", "Bytes received from the peer", |t| t.bytes_received)?;
        encoder.counters("link_sent_messages", "Messages sent to the peer", |t| t.messages_sent)?;
        encoder.counters("link_sent_frames", "Frames sent to the peer, which messages share", |t| t.frames_sent)?;
        encoder.counters("link_connects", "How often this node connected to the peer", |t| t.connects)?;
        encoder.counters("link_calls_refused", "Calls that the peer refused", |t| t.refused)?;

        let (refused, help) = (links.refused(), "Connections refused, or ended for what the peer sent");
        let mut family =
            encoder.encoder.encode_descriptor("link_connections_refused", help, None, MetricType::Counter)?;
        for reason in Reason::ALL {
            let labels = [("reason", reason.to_string())];
            ConstCounter::new(refused.of(reason)).encode(family.encode_family(&labels)?)?;
        }
        let help = "Seconds until this node's certificate runs out";
        let gauge = encoder.encoder.encode_descriptor("certificate_expires_seconds", help, None, MetricType::Gauge)?;
        ConstGauge::new(links.certificate_expires_seconds()).encode(gauge)
    }
}
