import { mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { askAgent, serveLocalApi } from './local-api.ts'

describe('the local API', () => {
  let directory: string
  let server: Awaited<ReturnType<typeof serveLocalApi>>
  const socket = () => join(directory, 'agent.sock')

  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'flotilla-api-'))
    server = await serveLocalApi(socket(), { 'GET /status': () => ({ state: 'proven' }) })
  })
  afterEach(() => {
    server.close()
    rmSync(directory, { recursive: true })
  })

  const raw = (request: string) =>
    new Promise<string>((resolve) => {
      const connection = connect(socket())
      let answer = ''
      connection.on('data', (bytes: Buffer) => (answer += bytes.toString()))
      connection.on('close', () => resolve(answer))
      connection.on('error', () => {})
      connection.end(request)
    })

  it('answers what it knows and refuses the rest with a code', async () => {
    expect(await askAgent(socket(), 'GET', '/status')).toEqual({ state: 'proven' })
    await expect(askAgent(socket(), 'GET', '/nothing')).rejects.toMatchObject({ code: 'NOT_FOUND' })
  })

  it('survives every target (found by fuzzing: `//` took the agent down)', async () => {
    for (const target of ['//', '/status?x', '*', '/%', 'http://', '/\\']) {
      const answer = await raw(`GET ${target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n`)
      expect(answer, target).toMatch(target === '/status?x' ? /200 OK/ : /40[04]/)
    }
    expect(await askAgent(socket(), 'GET', '/status')).toEqual({ state: 'proven' })
  })
})
