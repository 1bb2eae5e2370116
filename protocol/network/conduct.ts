import { Allowance } from './allowance.ts'

/**
 * What an honest peer never exceeds, several times over. A record changes at most twice a second and is renewed every 45 s;
 * a peer passes on the records of all. Streams: hello, exchange, metadata and records once for each connection, records
 * every 15 s, metadata once a second at most.
 */
const LIMITS = {
  streams: { burst: 96, perSecond: 3 },
  news: { burst: 3_000, perSecond: 500 },
  ownNews: { burst: 30, perSecond: 4 },
  // As many as a book of records holds: a peer whose policy is older, or newer, passes on what is refused here.
  strange: { burst: 2_000, perSecond: 1 },
  // Soon: gossipsub itself stops listening to a peer after some bad messages, and would leave it a member.
  bad: { burst: 8, perSecond: 0.2 },
} as const

/** How a peer misbehaved. */
export type Misconduct = { readonly code: 'FLOOD' | 'BAD_NEWS'; readonly why: string }

/**
 * Counts what peers do outside the exchange and says when it is too much. What is too much ends the peer's membership
 * for a while; there is no middle way, because refusing politely costs as much as serving.
 * @see protocol/spec/network.md, "Conduct"
 */
export class Conduct {
  readonly #streams = new Allowance(LIMITS.streams)
  readonly #news = new Allowance(LIMITS.news)
  readonly #ownNews = new Allowance(LIMITS.ownNews)
  /** By teller and author: what somebody repeats of another must not use up what that one may say itself. */
  readonly #passedOn = new Allowance(LIMITS.ownNews)
  readonly #strange = new Allowance(LIMITS.strange)
  readonly #bad = new Allowance(LIMITS.bad)

  /** The peer opened a stream. */
  opened(peer: string, nowMs: number): Misconduct | undefined {
    return this.#streams.spend(peer, nowMs) ? undefined : { code: 'FLOOD', why: 'opens streams without end' }
  }

  /**
   * The peer told news that `author` signed.
   * @returns also `ignore` when the author tells more than anybody needs and this peer only passes it on
   */
  told(peer: string, author: string, nowMs: number): Misconduct | 'ignore' | undefined {
    if (!this.#news.spend(peer, nowMs)) return { code: 'FLOOD', why: 'tells news without end' }
    if (peer !== author) return this.#passedOn.spend(`${peer} ${author}`, nowMs) ? undefined : 'ignore'
    return this.#ownNews.spend(peer, nowMs) ? undefined : { code: 'FLOOD', why: 'tells news of itself without end' }
  }

  /** The peer passed on what this device's policy refuses: a revoked member, a CA that is not known here. */
  toldStrangeNews(peer: string, nowMs: number): Misconduct | undefined {
    return this.#strange.spend(peer, nowMs) ? undefined : { code: 'BAD_NEWS', why: 'passes on strangers without end' }
  }

  /** The peer passed on what cannot be true: honest peers check before they pass on. */
  toldBadNews(peer: string, nowMs: number): Misconduct | undefined {
    return this.#bad.spend(peer, nowMs) ? undefined : { code: 'BAD_NEWS', why: 'passes on news that is not true' }
  }
}
