# Offset's messages, written from their published layouts, so that Cap'n Proto's own tool can read
# what relay writes, and write what it reads.
@0xc8f1e03b6a2d7945;

struct Words2 { a @0 :UInt64; b @1 :UInt64; }
struct Words4 { a @0 :UInt64; b @1 :UInt64; c @2 :UInt64; d @3 :UInt64; }
struct Words8 {
  a @0 :UInt64; b @1 :UInt64; c @2 :UInt64; d @3 :UInt64;
  e @4 :UInt64; f @5 :UInt64; g @6 :UInt64; h @7 :UInt64;
}

struct Fixed128 { words @0 :Words2; }
struct Fixed256 { words @0 :Words4; }
struct Fixed512 { words @0 :Words8; }

struct InitConnection {
  union {
    listen @0 :Void;
    accept @1 :Fixed256;
    connect @2 :Fixed256;
  }
}

struct IncomingConnection { publicKey @0 :Fixed256; }
struct RejectConnection { publicKey @0 :Fixed256; }

struct KaMessage {
  union {
    keepAlive @0 :Void;
    message @1 :Data;
  }
}

struct ExchangeRandNonce {
  randNonce @0 :Fixed128;
  srcPublicKey @1 :Fixed256;
  dest :union {
    empty @2 :Void;
    publicKey @3 :Fixed256;
  }
}

struct ExchangeDh {
  dhPublicKey @0 :Fixed256;
  randNonce @1 :Fixed128;
  keySalt @2 :Fixed256;
  signature @3 :Fixed512;
}

struct Rekey {
  dhPublicKey @0 :Fixed256;
  keySalt @1 :Fixed256;
}

struct ChannelMessage {
  randPadding @0 :Data;
  content @1 :ChannelContent;
}

struct ChannelContent {
  union {
    rekey @0 :Rekey;
    user @1 :Data;
  }
}
