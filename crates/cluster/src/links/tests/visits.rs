//! Visits: who is answered, and who is not.

use std::sync::Arc;

use super::*;
use crate::certificates::Credentials;
use crate::name::Name;

/// Answers with the name of whoever asks, and what it asked.
struct Parrot;

#[async_trait]
impl Visited for Parrot {
    async fn answer(&self, from: &Name, question: Bytes) -> Result<Bytes, String> {
        if question.starts_with(b"nonsense") {
            return Err("nonsense".to_owned());
        }
        Ok(format!("{}: {}", from, String::from_utf8_lossy(&question)).into())
    }
}

fn client(world: &World, name: &str) -> Visitor {
    let files = world.places(name);
    world.authority.client(name, 10, NOW).unwrap().write(&files.certificate, &files.private_key).unwrap();
    Visitor::new(Arc::new(Credentials::load_any(&files, NOW).unwrap()), world.clock.clone())
}

#[tokio::test]
async fn clients_and_nodes_are_answered_by_name() {
    let world = World::new();
    let links = world.start(1).await;
    let address = links.local_address().to_string();
    let ada = client(&world, "ada");
    assert_eq!(ada.ask(&address, Bytes::from_static(b"hi")).await.unwrap_err(), "it has no answer");
    links.receive_visitors(Arc::new(Parrot));
    let (node, answer) = ada.ask(&address, Bytes::from_static(b"hi")).await.unwrap();
    assert_eq!(node, NodeId(1));
    assert_eq!(answer, format!("polity://{CLUSTER:032x}/client/ada: hi").as_bytes());
    assert_eq!(ada.ask(&address, Bytes::from_static(b"nonsense")).await.unwrap_err(), "it hung up");
    assert_eq!(links.refused().of(Reason::Offence), 1);

    let second = Credentials::load(&world.files(2), CLUSTER, NodeId(2), NOW).unwrap();
    let second = Visitor::new(Arc::new(second), world.clock.clone());
    let (_, answer) = second.ask(&address, Bytes::from_static(b"hi")).await.unwrap();
    assert_eq!(answer, format!("polity://{CLUSTER:032x}/node/2: hi").as_bytes());
    links.stop().await;
}

#[tokio::test]
async fn faults_do_not_touch_visits_and_strangers_get_no_answer() {
    let world = World::new();
    let links = world.start(1).await;
    links.receive_visitors(Arc::new(Parrot));
    links.faults().set(Rule { peer: None, way: Way::Both, fault: Fault::Cut }).unwrap();
    let address = links.local_address().to_string();
    assert!(client(&world, "ada").ask(&address, Bytes::from_static(b"hi")).await.is_ok());
    let foreign = World::new();
    assert!(client(&foreign, "eve").ask(&address, Bytes::from_static(b"hi")).await.is_err());
    links.stop().await;
}
