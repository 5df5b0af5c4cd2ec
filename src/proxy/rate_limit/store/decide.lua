-- One decision over all the buckets that a request spends from: all are checked, and only where all allow it, all are spent from.
--
-- KEYS are the buckets. ARGV holds eight whole numbers for each of them:
--   requests, per     the rate: so many requests in so many microseconds
--   burst             what a full bucket holds
--   cost, cost_part   the time that this request's weight takes to be refilled
--   full, full_part   the time that an empty bucket takes to be full
--   block             how long a client that goes beyond this bucket is refused from then on; 0 is not at all
-- Times are whole microseconds; a part counts 1/requests of one. All sums are of whole numbers below 2^53, so that none is rounded.
--
-- A bucket is the moment at which it is full again (GCRA's theoretical arrival time), the rate that this moment was reckoned
-- with, and until when its client is refused: "moment part requests per burst blocked_until". No bucket is a full one.
--
-- The answer is the time, then for each bucket: 0 allowed, 1 beyond the rate, 2 refused for a time, 3 the same from now on; how long
-- it takes to be full (whole, part), after spending where that was done; and how long its client is still refused.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local buckets = {}
local allowed = true

local function whole_number(number)
  return string.format('%.0f', number)
end

-- Another rate keeps what is left, in requests. Rounding takes at most 2^-50 of what a bucket holds, and a microsecond, from the
-- client, and never gives it anything.
local function convert(bucket, requests, per, burst)
  local spent = (bucket.moment - now + bucket.part / bucket.requests) * bucket.requests / bucket.per
  local left = math.min(math.max(bucket.burst - spent, 0), burst)
  local rounding = (burst + bucket.burst) / 2 ^ 50
  bucket.moment = now + math.ceil((burst - left + rounding) * per / requests) + 1
  bucket.part = 0
end

local function read(key, requests, per, burst)
  local bucket = { moment = now, part = 0, blocked_until = 0 }
  local text = redis.call('GET', key)
  if not text then
    return bucket
  end
  local numbers = {}
  for number in string.gmatch(text, '%d+') do
    numbers[#numbers + 1] = tonumber(number)
  end
  if #numbers ~= 6 then
    return nil
  end
  bucket.blocked_until = numbers[6]
  if numbers[1] < now then
    return bucket
  end
  bucket.moment, bucket.part, bucket.requests, bucket.per, bucket.burst = unpack(numbers, 1, 5)
  if bucket.requests ~= requests or bucket.per ~= per or bucket.burst ~= burst then
    convert(bucket, requests, per, burst)
  end
  return bucket
end

for i = 1, #KEYS do
  local requests, per, burst, cost, cost_part, full, full_part, block = unpack(ARGV, i * 8 - 7, i * 8)
  requests, per, burst = tonumber(requests), tonumber(per), tonumber(burst)
  cost, cost_part, full, full_part = tonumber(cost), tonumber(cost_part), tonumber(full), tonumber(full_part)
  block = tonumber(block)
  local bucket = read(KEYS[i], requests, per, burst)
  if not bucket then
    return redis.error_reply('FOREIGN a key of a bucket holds something else')
  end
  local moment, part = bucket.moment, bucket.part
  -- Neither is ever further away, unless the clock was set back: the bucket is empty then, and the block whole.
  if moment - now > full or (moment - now == full and part > full_part) then
    moment, part = now + full, full_part
  end
  bucket.blocked_until = math.min(bucket.blocked_until, now + block)
  local next_moment, next_part = moment + cost, part + cost_part
  if next_part >= requests then
    next_moment, next_part = next_moment + 1, next_part - requests
  end
  local verdict = 0
  if bucket.blocked_until > now then
    verdict = 2
  elseif next_moment - now > full or (next_moment - now == full and next_part > full_part) then
    verdict = 1
  end
  allowed = allowed and verdict == 0
  buckets[i] = {
    verdict = verdict, moment = moment, part = part, next_moment = next_moment, next_part = next_part,
    blocked_until = bucket.blocked_until, requests = requests, per = per, burst = burst, block = block,
    cost = cost + cost_part,
  }
end

local answer = { now }
for i = 1, #KEYS do
  local bucket = buckets[i]
  local begins = bucket.verdict == 1 and bucket.block > 0
  local spends = allowed and bucket.cost > 0
  if spends then
    bucket.moment, bucket.part = bucket.next_moment, bucket.next_part
  elseif begins then
    bucket.verdict, bucket.blocked_until = 3, now + bucket.block
  end
  if spends or begins then
    local needed_until = math.max(bucket.moment + 1, bucket.blocked_until)
    local text = table.concat({
      whole_number(bucket.moment), whole_number(bucket.part), whole_number(bucket.requests), whole_number(bucket.per),
      whole_number(bucket.burst), whole_number(bucket.blocked_until),
    }, ' ')
    redis.call('SET', KEYS[i], text, 'PX', whole_number(math.ceil((needed_until - now) / 1000) + 1))
  end
  answer[#answer + 1] = bucket.verdict
  answer[#answer + 1] = bucket.moment - now
  answer[#answer + 1] = bucket.part
  answer[#answer + 1] = math.max(bucket.blocked_until - now, 0)
end
return answer
