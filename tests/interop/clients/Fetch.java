import java.net.Authenticator;
import java.net.PasswordAuthentication;
import java.net.ProxySelector;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;

/** The JDK's own client. The proxy and its authority come from JAVA_TOOL_OPTIONS; a name and a key the JVM asks the program for. */
class Fetch {
    public static void main(String[] arguments) throws Exception {
        String[] agent = URI.create(System.getenv("HTTPS_PROXY")).getUserInfo().split(":");
        HttpClient client = HttpClient.newBuilder()
            .proxy(ProxySelector.getDefault())
            .version(HttpClient.Version.valueOf(arguments[1]))
            .authenticator(new Authenticator() {
                @Override
                protected PasswordAuthentication getPasswordAuthentication() {
                    return getRequestorType() == RequestorType.PROXY ? new PasswordAuthentication(agent[0], agent[1].toCharArray()) : null;
                }
            })
            .build();
        var answer = client.send(HttpRequest.newBuilder(URI.create(arguments[0])).build(), BodyHandlers.ofString());
        System.out.println(answer.statusCode() + " " + answer.version() + " " + answer.body());
    }
}
