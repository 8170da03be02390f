//! A whole daemon against a remote side on loopback: what comes in, what goes out, and what goes wrong.

use crate::rig::Rig;

#[tokio::test(flavor = "multi_thread")]
async fn the_guides_row_comes_back_with_the_guides_scores() {
    let rig = Rig::new().await;
    let daemon = rig.start().await;
    rig.drop_file("good day.csv", "Col2\nThis is a good day\n");
    daemon.until_ended(1).await;
    let out = rig.files("out");
    assert_eq!(out.keys().collect::<Vec<_>>(), ["good day.scores.csv"]);
    assert_eq!(out["good day.scores.csv"].lines().nth(1), Some("1,1,2,2,0,2,0,1"));
    assert_eq!(rig.files("archive").keys().collect::<Vec<_>>(), ["good day.csv"]);
    assert!(rig.files("in").is_empty());
    assert_eq!(rig.starts_of(""), 1);
    daemon.stop().await;
}
