//! An API server for one agent: lists as watches that begin with all objects, and bookmarks.
//!
//! The objects are those of [`crate::objects`] as JSON, with the fields that a cluster's objects
//! have and the agent skips. They are made while they are sent.

use std::io::{BufWriter, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::objects;

/// Interval of bookmarks; API servers send one a minute.
const BOOKMARKS: Duration = Duration::from_secs(20);

/// Serves for ever.
pub(crate) fn serve(listener: &TcpListener) {
    for stream in listener.incoming() {
        // The agent closes connections when it restarts for larger maps.
        std::thread::spawn(|| drop(answer(stream.unwrap())));
    }
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let (mut request, mut chunk) = (Vec::new(), [0; 4096]);
    while !request.windows(4).any(|w| w == b"\r\n\r\n") {
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        request.extend_from_slice(&chunk[..read]);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let target = request.split(' ').nth(1).unwrap();
    let path = target.split('?').next().unwrap();
    if !target.contains("watch=true") {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}");
    }
    let mut stream = BufWriter::with_capacity(1 << 16, stream);
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")?;
    if target.contains("sendInitialEvents=true") {
        list(path, &mut stream)?;
        event(&mut stream, "BOOKMARK", &bookmark(&json!({"k8s.io/initial-events-end": "true"})))?;
    }
    loop {
        stream.flush()?;
        std::thread::sleep(BOOKMARKS);
        event(&mut stream, "BOOKMARK", &bookmark(&json!({})))?;
    }
}

fn event(stream: &mut impl Write, kind: &str, object: &Value) -> std::io::Result<()> {
    let line = format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n");
    write!(stream, "{:x}\r\n{line}\r\n", line.len())
}

fn bookmark(annotations: &Value) -> Value {
    json!({"kind": "Bookmark", "apiVersion": "v1", "metadata": {"resourceVersion": "100", "annotations": annotations}})
}

fn list(path: &str, stream: &mut impl Write) -> std::io::Result<()> {
    let mut all = |make: fn(usize) -> Value, count| (0..count).try_for_each(|i| event(stream, "ADDED", &make(i)));
    match path.rsplit('/').next().unwrap() {
        "services" => all(service, objects::SERVICES),
        "endpointslices" => all(slice, objects::SERVICES),
        "nodes" => all(node, 1),
        "servicecidrs" => all(range, 1),
        _ => Ok(()),
    }
}

fn metadata(i: usize, name: &str, labels: &Value, fields: &Value) -> Value {
    json!({
        "name": name, "namespace": objects::namespace(i), "uid": format!("6f1b2c3d-0000-4000-8000-{i:012}"),
        "resourceVersion": format!("{}", i + 1), "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1,
        "labels": labels,
        "annotations": {"meta.helm.sh/release-name": objects::name(i), "meta.helm.sh/release-namespace": objects::namespace(i)},
        "managedFields": [{"manager": "helm", "operation": "Update", "apiVersion": "v1",
            "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1", "fieldsV1": fields}],
    })
}

fn service(i: usize) -> Value {
    let (name, address) = (objects::name(i), objects::cluster_ip(i).to_string());
    let labels = json!({"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "Helm", "helm.sh/chart": "checkout-1.2.3"});
    let fields = json!({"f:metadata": {"f:labels": {".": {}, "f:app.kubernetes.io/name": {}}},
        "f:spec": {"f:internalTrafficPolicy": {}, "f:ports": {".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}":
            {".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {}}},
            "f:selector": {}, "f:sessionAffinity": {}, "f:type": {}}});
    json!({"kind": "Service", "apiVersion": "v1", "metadata": metadata(i, &name, &labels, &fields),
        "spec": {"ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": "http"}],
            "selector": {"app.kubernetes.io/name": name}, "clusterIP": address, "clusterIPs": [address],
            "type": "ClusterIP", "sessionAffinity": "None", "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster"},
        "status": {"loadBalancer": {}}})
}

fn slice(i: usize) -> Value {
    let service = objects::name(i);
    let labels = json!({"kubernetes.io/service-name": service, "app.kubernetes.io/name": service,
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"});
    let fields = json!({"f:addressType": {}, "f:endpoints": {}, "f:metadata": {"f:labels": {}, "f:ownerReferences": {}}, "f:ports": {}});
    let endpoint = |n: usize| {
        let node = if n == 0 { "node-1".to_owned() } else { format!("node-{}", 2 + (i + n) % 100) };
        json!({"addresses": [objects::endpoint(i, n).to_string()],
            "conditions": {"ready": true, "serving": true, "terminating": false}, "nodeName": node,
            "targetRef": {"kind": "Pod", "namespace": objects::namespace(i), "name": format!("{service}-5d4f8c7b9-{n:05}"),
                "uid": format!("7a1b2c3d-000{n}-4000-8000-{i:012}")}, "zone": format!("zone-{}", n % 3)})
    };
    let endpoints: Vec<_> = (0..objects::PER_SERVICE).map(endpoint).collect();
    json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": metadata(i, &format!("{service}-x7k2p"), &labels, &fields), "addressType": "IPv4",
        "endpoints": endpoints, "ports": [{"name": "http", "protocol": "TCP", "port": 8080}]})
}

fn node(_: usize) -> Value {
    json!({"kind": "Node", "apiVersion": "v1",
        "metadata": {"name": "node-1", "uid": "n-1", "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"podCIDR": "10.127.0.0/24", "podCIDRs": ["10.127.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "node-1"}]}})
}

fn range(_: usize) -> Value {
    json!({"kind": "ServiceCIDR", "apiVersion": "networking.k8s.io/v1",
        "metadata": {"name": "kubernetes", "uid": "r-1", "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"cidrs": ["10.96.0.0/12"]}})
}
