import java.util.HexFormat;
import javax.smartcardio.Card;
import javax.smartcardio.CardChannel;
import javax.smartcardio.CardTerminal;
import javax.smartcardio.CommandAPDU;
import javax.smartcardio.ResponseAPDU;
import javax.smartcardio.TerminalFactory;

/**
 * Java's smart card classes against the card: usage Smartcardio READER.
 *
 * They send GET RESPONSE themselves after 61XX, in the class of the command. Prints "ok NAME" or "FAIL NAME: why" for each check.
 */
final class Smartcardio {
    public static void main(String[] arguments) throws Exception {
        CardTerminal terminal = null;
        for (CardTerminal candidate : TerminalFactory.getDefault().terminals().list()) {
            if (candidate.getName().equals(arguments[0])) {
                terminal = candidate;
            }
        }
        Card card = terminal.connect("T=0");
        CardChannel basic = card.getBasicChannel();
        check("SELECT without Le brings the FCI", basic, "00A4040008A000000151000000", "6F41", 67);
        check("SELECT with Le brings the FCI", basic, "00A4040008A00000015100000000", "6F41", 67);
        check("GET DATA with an Le of 16 brings all 51 bytes", basic, "80CA006610", "6631732F", 51);
        check("the same in class 00", basic, "00CA006610", "732F", 49);
        check("byte by byte", basic, "80CA00CF01", "CF0A", 12);
        check("INITIALIZE UPDATE brings its 32 bytes", basic, "805000000801020304050607081C", "", 32);
        CardChannel other = card.openLogicalChannel();
        check("on a supplementary channel", other, "80CA006610", "6631732F", 51);
        other.close();
        card.disconnect(true);
    }

    private static void check(String name, CardChannel channel, String command, String begins, int length) throws Exception {
        ResponseAPDU answer = channel.transmit(new CommandAPDU(HexFormat.of().parseHex(command)));
        String data = HexFormat.of().withUpperCase().formatHex(answer.getData());
        boolean right = answer.getSW() == 0x9000 && data.startsWith(begins) && answer.getData().length == length;
        System.out.println(right ? "ok " + name : "FAIL " + name + ": " + data + " " + Integer.toHexString(answer.getSW()));
    }
}
