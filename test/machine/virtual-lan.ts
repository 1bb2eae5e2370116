import { execFileSync } from 'node:child_process'
import type { Attachment } from './virtual-board.ts'

/** The operator's address on every virtual network. */
const OPERATOR = '10.77.0.1'
let made = 0

/** An Ethernet switch for virtual machines, in a network namespace where the operator is too. */
export class VirtualLan {
  readonly #namespace: string
  #taps = 0

  constructor() {
    this.#namespace = `flotilla-lan-${process.pid}-${(made += 1)}`
    ip('netns', 'add', this.#namespace)
    this.#ip('link', 'set', 'lo', 'up')
    // Snooping drops the multicast of machines that nobody asks for their groups.
    this.#ip('link', 'add', 'lan', 'type', 'bridge', 'mcast_snooping', '0')
    this.#ip('address', 'add', `${OPERATOR}/24`, 'dev', 'lan')
    this.#ip('link', 'set', 'lan', 'up')
  }

  /** Puts a socket into the wall. @returns the card of the machine that goes there, and the address that it gives itself */
  attach(): { readonly network: Attachment; readonly address: string } {
    const number = 10 + (this.#taps += 1)
    const tap = `tap${number}`
    this.#ip('tuntap', 'add', 'dev', tap, 'mode', 'tap')
    this.#ip('link', 'set', tap, 'master', 'lan', 'up')
    const mac = `52:54:00:77:00:${number.toString(16).padStart(2, '0')}`
    return { network: { namespace: this.#namespace, tap, mac }, address: `10.77.0.${number}` }
  }

  /** A command line that runs where the operator is. */
  wrap(command: readonly string[]): readonly string[] {
    return ['ip', 'netns', 'exec', this.#namespace, ...command]
  }

  close(): void {
    ip('netns', 'delete', this.#namespace)
  }

  #ip(...args: readonly string[]): void {
    ip('-n', this.#namespace, ...args)
  }
}

function ip(...args: readonly string[]): void {
  execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'inherit'] })
}
