use bitcoin::block::Version;
use bitcoin::constants::genesis_block;
use bitcoin::hashes::Hash as _;
use bitcoin::{BlockHash, TxMerkleNode};

use super::*;

const NOW: u64 = 1_800_000_000;

fn regtest() -> Headers {
    let header = genesis_block(Network::Regtest).header;
    Headers::new(Network::Regtest, Checkpoint { height: 0, header }).unwrap()
}

/// A block with the work that regtest demands, which is next to none.
fn block(prev_blockhash: BlockHash, time: u32, mark: u8) -> Header {
    let bits = genesis_block(Network::Regtest).header.bits;
    let merkle_root = TxMerkleNode::from_byte_array([mark; 32]);
    let mut header = Header { version: Version::TWO, prev_blockhash, merkle_root, time, bits, nonce: 0 };
    while !header.target().is_met_by(header.block_hash()) {
        header.nonce += 1;
    }
    header
}

fn chain(headers: &Headers, blocks: u32, mark: u8) -> Vec<Header> {
    let (height, mut hash) = headers.newest();
    let time = headers.last().time;
    let mut made = Vec::new();
    for number in 1..=blocks {
        made.push(block(hash, time + 600 * number, mark));
        hash = made.last().unwrap().block_hash();
    }
    assert_eq!(made.len() as u32, blocks, "above {height}");
    made
}

#[test]
fn height_and_median_time_follow_from_the_headers() {
    let mut headers = regtest();
    let made = chain(&headers, 20, 1);
    assert_eq!(headers.extend(&made, NOW).unwrap(), Some(Changed { from: 1 }));
    assert_eq!(headers.newest(), (20, made[19].block_hash()));
    // Of the last eleven, 10 to 20, the middle one is 15.
    assert_eq!(headers.tip(), Tip { height: 20, time: made[14].time.into() });
    assert_eq!(headers.extend(&made, NOW).unwrap(), None, "the same again changes nothing");
    let stored: Vec<u32> = headers.from(18).map(|(height, _)| height).collect();
    assert_eq!(stored, [18, 19, 20]);
}

#[test]
fn a_branch_counts_only_with_more_work() {
    let mut headers = regtest();
    let trunk = chain(&headers, 5, 1);
    headers.extend(&trunk, NOW).unwrap();
    let fork = {
        let mut below = regtest();
        below.extend(&trunk[..3], NOW).unwrap();
        chain(&below, 3, 2)
    };
    let before = headers.clone();
    assert_eq!(headers.extend(&fork[..2], NOW).unwrap(), None, "as much work is not more");
    assert_eq!(headers, before);
    assert_eq!(headers.extend(&fork, NOW).unwrap(), Some(Changed { from: 4 }));
    assert_eq!(headers.newest(), (6, fork[2].block_hash()));
}

#[test]
fn what_breaks_a_rule_changes_nothing() {
    let mut headers = regtest();
    headers.extend(&chain(&headers.clone(), 12, 1), NOW).unwrap();
    let before = headers.clone();
    let good = chain(&headers, 1, 1)[0];

    let mut easier = good;
    easier.bits = CompactTarget::from_consensus(0x207f_fffe);
    assert!(matches!(headers.extend(&[easier], NOW), Err(BadHeader::Difficulty { height: 13, .. })));
    let mut lazy = good;
    while lazy.target().is_met_by(lazy.block_hash()) {
        lazy.nonce += 1;
    }
    assert_eq!(headers.extend(&[lazy], NOW), Err(BadHeader::Work(13)));
    let (_, newest) = headers.newest();
    let median = u32::try_from(headers.tip().time).unwrap();
    let early = block(newest, median, 1);
    assert!(matches!(headers.extend(&[early], NOW), Err(BadHeader::TooEarly { height: 13, .. })));
    let late = block(newest, u32::try_from(NOW + MOST_AHEAD + 1).unwrap(), 1);
    assert!(matches!(headers.extend(&[late], NOW), Err(BadHeader::TooLate { height: 13, .. })));
    let lost = block(BlockHash::all_zeros(), good.time, 1);
    assert!(matches!(headers.extend(&[lost], NOW), Err(BadHeader::Disconnected(_))));
    let gap = [good, lost];
    assert!(matches!(headers.extend(&gap, NOW), Err(BadHeader::Disconnected(_))));
    assert_eq!(headers, before);
    assert!(headers.extend(&[good], NOW).unwrap().is_some());
}

/// On bitcoin a header with regtest's difficulty is nothing.
#[test]
fn work_of_another_network_is_refused() {
    let header = genesis_block(Network::Bitcoin).header;
    let mut headers = Headers::new(Network::Bitcoin, Checkpoint { height: 0, header }).unwrap();
    let cheap = block(header.block_hash(), header.time + 600, 1);
    assert!(matches!(headers.extend(&[cheap], NOW), Err(BadHeader::Difficulty { height: 1, .. })));
}

/// Blocks 1 and 2 of the main chain.
#[test]
fn the_main_chain_is_taken() {
    let genesis = genesis_block(Network::Bitcoin).header;
    let mut headers = Headers::new(Network::Bitcoin, Checkpoint { height: 0, header: genesis }).unwrap();
    let first = "010000006fe28c0ab6f1b372c1a6a246ae63f74f931e8365e15a089c68d6190000000000982051fd1e4ba744bbbe680e1fee14677ba1a3c3540bf7b1cdb606e857233e0e61bc6649ffff001d01e36299";
    let second = "010000004860eb18bf1b1620e37e9490fc8a427514416fd75159ab86688e9a8300000000d5fdcc541e25de1c7a5addedf24858b8bb665c9f36ef744ee42c316022c90f9bb0bc6649ffff001d08d2bd61";
    let read = |hex: &str| bitcoin::consensus::encode::deserialize_hex::<Header>(hex).unwrap();
    headers.extend(&[read(first), read(second)], NOW).unwrap();
    assert_eq!(headers.tip().height, 2);
}

/// The difficulty of block 2,016·n follows from the times of the first and the last block of the epoch before.
#[test]
fn difficulty_follows_the_time_that_an_epoch_took() {
    let first = genesis_block(Network::Bitcoin).header;
    let mut known = vec![first; EPOCH as usize];
    let harder = CompactTarget::from_consensus(0x1c00_ffff);
    let half = u32::try_from(Params::new(Network::Bitcoin).pow_target_timespan / 2).unwrap();
    for header in &mut known {
        header.bits = harder;
    }
    known.last_mut().unwrap().time = first.time + half;
    let headers = Headers { network: Network::Bitcoin, start: 0, known };
    let next = headers.difficulty(EPOCH, &first);
    let (was, is) = (Target::from(harder), Target::from(next));
    assert!(is.to_work() > was.to_work(), "half the time, twice the work");
    assert_eq!(next.to_consensus(), 0x1b7f_ff80);
}

#[test]
fn a_checkpoint_within_an_epoch_is_refused() {
    let header = genesis_block(Network::Regtest).header;
    let bad = Checkpoint { height: 1, header };
    assert_eq!(Headers::new(Network::Regtest, bad), Err(BadHeader::Checkpoint(1)));
}
