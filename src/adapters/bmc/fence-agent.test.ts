import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatAgentInput } from './fence-agent.ts';
import { parsePowerStatus, sortFenceFailure } from './fence-answer.ts';

test('off is believed only when the words and the exit code agree', () => {
  assert.equal(parsePowerStatus({ code: 2, stdout: 'Status: OFF\n', stderr: '' }), 'off');
  assert.equal(parsePowerStatus({ code: 0, stdout: 'Status: ON\n', stderr: '' }), 'on');
  assert.equal(parsePowerStatus({ code: 0, stdout: 'Status: OFF\n', stderr: '' }), null);
  assert.equal(parsePowerStatus({ code: 2, stdout: '', stderr: 'usage' }), null);
  assert.equal(parsePowerStatus({ code: null, stdout: 'Status: OFF\n', stderr: '' }), null);
});

test('a refusal, a silence and a deadline are told apart', () => {
  const kindOf = (code: number | null, stderr: string) => sortFenceFailure('asking', { code, stdout: '', stderr }).kind;
  assert.equal(kindOf(1, '> RAKP 2 HMAC is invalid\nError: Unable to establish IPMI v2 / RMCP+ session'), 'denied');
  assert.equal(kindOf(1, 'RAKP 2 message indicates an error : unauthorized name'), 'denied');
  assert.equal(kindOf(1, 'Get Auth Capabilities error\nError: Unable to establish IPMI v2 / RMCP+ session'), 'unavailable');
  assert.equal(kindOf(1, ''), 'unavailable');
  assert.equal(kindOf(null, ''), 'timeout');
});

test('the agent is told no password', () => {
  const input = formatAgentInput({ address: '10.0.0.9', port: 623, user: 'holdfast', passwordFile: '/secret/file' }, 'off');
  assert.match(input, /^action=off$/m);
  assert.doesNotMatch(input, /^passw|secret/m);
});
