use super::*;
use crate::fs::OpenMode;
use crate::fs::sim::SimFs;

fn node(value: i32) -> NodeId {
    NodeId::new(value).unwrap()
}

fn decoded(text: &str) -> Result<MetaProperties, MetaFault> {
    MetaProperties::decode(text.as_bytes())
}

#[test]
fn both_versions_are_read() {
    let meta = decoded("#\n#Sun Nov 22\nnode.id=1\nbroker.id=x\nversion=1\ncluster.id=a b\\=c\n").unwrap();
    assert_eq!((meta.version(), meta.cluster_id(), meta.node_id()), (MetaVersion::V1, Some("a b=c"), Some(node(1))));
    assert_eq!(meta.directory_id(), None);
    let meta = decoded("version=0\nbroker.id=7\nnode.id=x\n").unwrap();
    assert_eq!((meta.version(), meta.cluster_id(), meta.node_id()), (MetaVersion::V0, None, Some(node(7))));
    let meta = decoded("directory.id=AAAAAAAAAAUAAAAAAAAABg").unwrap();
    assert_eq!((meta.version(), meta.node_id()), (MetaVersion::V0, None));
    assert_eq!(meta.directory_id(), DirectoryId::new(5 << 64 | 6));
}

#[test]
fn what_is_wrong_is_said() {
    let fault = |text: &str| decoded(text).unwrap_err();
    for version in ["2", "-1", "", "one"] {
        assert_eq!(fault(&format!("version={version}")), MetaFault::Version);
    }
    assert_eq!(fault("version=1\nnode.id=1"), MetaFault::Missing { key: "cluster.id" });
    assert_eq!(fault("version=1\ncluster.id=c\nbroker.id=1"), MetaFault::Missing { key: "node.id" });
    for id in ["", "-1", "x", "2147483648"] {
        assert_eq!(fault(&format!("broker.id={id}")), MetaFault::Node { key: "broker.id" });
    }
    assert_eq!(fault("directory.id=x"), MetaFault::Directory(IdFault::Length { bytes: 1 }));
    assert_eq!(fault("directory.id=AAAAAAAAAAAAAAAAAAAAAQ"), MetaFault::Directory(IdFault::Reserved));
    assert_eq!(fault("cluster.id=a\ncluster.id=b"), MetaFault::Contradiction { key: "cluster.id" });
    assert!(decoded("cluster.id=a\ncluster.id=a").is_ok());
    assert_eq!(fault("a=\\u12"), MetaFault::Syntax(ConfigError::MalformedEscape { line: 1 }));
}

#[test]
fn whatever_is_written_reads_back() {
    for cluster in ["plain", "", " a", "a b ", "=:#!\\", "tab\tline\nreturn\rfeed\x0c", "ä\u{2028}\u{1f600}\u{7f}"] {
        for directory in [None, DirectoryId::new(100)] {
            let meta = MetaProperties::new(cluster, node(i32::MAX), directory);
            let bytes = meta.encode();
            assert!(bytes.is_ascii());
            assert_eq!(MetaProperties::decode(&bytes), Ok(meta), "{cluster:?}");
        }
    }
    let old = decoded("broker.id=7\ncluster.id=c").unwrap();
    assert_eq!(old.encode(), b"broker.id=7\nversion=0\ncluster.id=c\n");
    let any_bytes: Vec<u8> = (0..=u8::MAX).collect();
    assert!(MetaProperties::decode(&any_bytes).is_ok());
}

#[test]
fn a_file_that_is_there_is_never_rewritten() {
    let (fs, dir) = (SimFs::new(1), Path::new("/"));
    assert_eq!(MetaProperties::read(&fs, dir).unwrap(), None);
    let meta = MetaProperties::new("c", node(1), None);
    meta.write_new(&fs, dir).unwrap();
    assert_eq!(MetaProperties::read(&fs, dir).unwrap(), Some(meta.clone()));
    assert!(matches!(meta.write_new(&fs, dir), Err(MetaError::Present { .. })));
    // Not even one that says nothing.
    let fs = SimFs::new(1);
    let file = fs.open(&dir.join(META_PROPERTIES), OpenMode::CreateNew).unwrap();
    assert!(matches!(meta.write_new(&fs, dir), Err(MetaError::Present { .. })));
    file.set_len(FILE_BYTES_MAX as u64 + 1).unwrap();
    let read = MetaProperties::read(&fs, dir);
    assert!(matches!(read, Err(MetaError::Malformed { fault: MetaFault::Size { bytes: 65_537 }, .. })), "{read:?}");
}

fn directory(name: &str, text: &str) -> (PathBuf, MetaProperties) {
    (PathBuf::from(name), decoded(text).unwrap())
}

#[test]
fn directories_of_one_node_agree_and_fill_in_what_is_not_known() {
    let found = [
        directory("/a", "broker.id=1"),
        directory("/b", "version=1\nnode.id=1\ncluster.id=c\ndirectory.id=AAAAAAAAAAUAAAAAAAAABg"),
        directory("/c", "directory.id=AAAAAAAAAAUAAAAAAAAABw"),
    ];
    let agreed = Identity { cluster_id: Some("c".into()), node_id: Some(node(1)) };
    assert_eq!(Identity::default().verify(&found).unwrap(), agreed);
    assert_eq!(agreed.verify(&found).unwrap(), agreed);
    assert_eq!(agreed.verify(&[]).unwrap(), agreed);
}

#[test]
fn what_belongs_elsewhere_is_refused() {
    let found = [directory("/a", "broker.id=1\ncluster.id=c"), directory("/b", "broker.id=2\ncluster.id=d")];
    let expected = |cluster: Option<&str>| Identity { cluster_id: cluster.map(str::to_owned), node_id: None };
    let error = expected(Some("c")).verify(&found).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/b/meta.properties is of cluster \"d\", not \"c\"; name the directory of this cluster, or empty it"
    );
    let error = expected(Some("x")).verify(&found[..1]).unwrap_err();
    assert!(matches!(&error, MetaError::Cluster { expected, found, .. } if expected == "x" && found == "c"));
    let nodes = [directory("/a", "broker.id=1"), directory("/b", "broker.id=2")];
    let error = expected(None).verify(&nodes).unwrap_err();
    assert!(matches!(error, MetaError::Node { expected, found, .. } if (expected, found) == (node(1), node(2))));
    let copy = "directory.id=AAAAAAAAAAUAAAAAAAAABg";
    let error = expected(None).verify(&[directory("/a", copy), directory("/b", copy)]).unwrap_err();
    assert!(matches!(&error, MetaError::DuplicateDirectory { first, second, .. }
        if first == Path::new("/a/meta.properties") && second == Path::new("/b/meta.properties")));
}
